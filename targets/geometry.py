"""What the manifest says of a graph whatever the target: its cache slots, which layer reads which, and its sizes."""

from __future__ import annotations

from collections.abc import Iterable

from kexport.graphs.dims import Dim
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops import attribute
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.manifest import Cache, CacheSlot
from kexport.targets.base import Geometry
from kexport.targets.slot_names import SlotNames

ATTENTION = ("attention", "joint_attention")


def cache(graph: Graph, slot_names: SlotNames, stored: dict[str, Slot], capacity: int, layout: tuple[str, ...]) -> Cache:
    """The caches of `graph`. `stored`: the slots with the head sizes of the file, which may be padded."""
    windows, layers = _windows(graph), tuple(tuple(layer) for layer in _layers(graph))
    slots = tuple(
        CacheSlot(
            name=name,
            kind=slot.kind,
            num_key_value_heads=slot.num_key_value_heads,
            head_dim=slot.head_dim,
            value_head_dim=slot.value_head_dim,
            dtype=slot.dtype,
            layout=layout,
            inputs=slot_names.past(name),
            outputs=slot_names.present(name),
            window=windows.get(name),
        )
        for name, slot in graph.slots.items()
    )
    per_token = sum(
        slot.num_key_value_heads * (slot.head_dim + slot.value_head_dim) * item_size(slot.dtype)
        for slot in stored.values()
        if slot.kind == "self"
    )
    return Cache(slots=slots, layers=layers, capacity=capacity, bytes_per_token=per_token)


def _slot_uses(graph: Graph) -> Iterable[str]:
    """The slot of every node that uses one, in order; keys and values of one attention count once, an encoder's slot comes behind the node's own."""
    for node in graph.of_op(*ATTENTION, "cache_write", "cache_read"):
        names = [str(node.attrs.get(name) or "") for name in ("slot", "cross_slot")]
        if node.op in ATTENTION or not attribute(node, "part"):
            yield from filter(None, names)


def _layers(graph: Graph) -> list[list[str]]:
    """The slots each decoder layer reads: a use of a self slot opens a layer, a cross slot joins the open one."""
    layers: list[list[str]] = []
    for slot in _slot_uses(graph):
        if graph.slots[slot].kind == "self" or not layers:
            layers.append([slot])
        else:
            layers[-1].append(slot)
    return layers


def _windows(graph: Graph) -> dict[str, int | None]:
    """Slot -> window where every attention over the slot has one; the widest."""
    seen: dict[str, list[int | None]] = {}
    for node in graph.of_op(*ATTENTION):
        if attribute(node, "slot"):
            seen.setdefault(str(attribute(node, "slot")), []).append(attribute(node, "window"))
    return {slot: max((w for w in windows if w), default=None) if all(windows) else None for slot, windows in seen.items()}


def geometry(graph: Graph, stored: dict[str, Slot]) -> Geometry:
    """The sizes of `graph` that vendors' runtimes ask for."""
    own = [(name, slot) for name, slot in stored.items() if slot.kind == "self"]
    shapes = {(slot.num_key_value_heads, slot.head_dim) for _, slot in own}
    heads = [graph.type_of(node.input(0)).shape[2] for node in graph.of_op(*ATTENTION) if attribute(node, "write")]
    tables = [graph.type_of(node.input(0)).shape for node in graph.of_op("embedding")]
    logits = graph.type_of(graph.outputs[names.LOGITS]).shape if names.LOGITS in graph.outputs else (0,)
    first = own[0][1] if own else None
    return Geometry(
        hidden_size=_number(tables[0][1]) if tables else 0,
        vocabulary_size=_number(logits[-1]),
        attention_heads=_number(heads[0]) if heads else 0,
        key_value_heads=first.num_key_value_heads if first else 0,
        stored_head_dim=first.head_dim if first else 0,
        layers=len(own),
        uniform=len(shapes) <= 1,
    )


def _number(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0
