"""What the manifest says of a graph whatever the target: its cache slots and states, which layer reads which, recurrent layers, and its sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from kexport.graphs.dims import Dim
from kexport.graphs.ir import Graph, Node, Slot
from kexport.graphs.ops import attribute
from kexport.graphs.ops.joint_attention import ATTENTION
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.manifest import Cache, CacheSlot, Fusion
from kexport.targets.base import Emitted, Geometry
from kexport.targets.slot_names import SlotNames

STATE_LAYOUTS = {"convolution": ("batch", "tokens", "channels"), "recurrent": ("batch", "heads", "key_dim", "value_dim")}
PARALLEL_FORM = "delta rule, parallel over a chunk"
PLAIN_FORM = "plain operators"
TWO_CACHES = "one softmax over two caches, which no operator reads"
VIEWS = {"reshape", "transpose", "cast"}  # what may stand between a state and the node that carries it on
EXTENT_IS_UNKNOWN = "it cannot tell the model where the original's calls end, which the original's results depend on"
UNKNOWN_TO_VENDORS = "it has recurrent layers, whose states this runtime does not carry"


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
    slots += tuple(
        CacheSlot(
            name=name,
            kind=state.kind,
            num_key_value_heads=0,
            head_dim=0,
            value_head_dim=0,
            dtype=state.dtype,
            layout=STATE_LAYOUTS[state.kind],
            inputs=(slot_names.past_state(name),),
            outputs=(slot_names.present_state(name),),
            shape=state.shape,
        )
        for name, state in graph.states.items()
    )
    states = sum(math.prod(state.shape) * item_size(state.dtype) for state in graph.states.values())
    return Cache(slots=slots, layers=layers, capacity=capacity, bytes_per_token=per_token, state_bytes=states)


def _uses(graph: Graph) -> Iterable[str]:
    """The slot or state of every node that uses one, in order; keys and values of one attention count once, a state at its first reader, an
    encoder's slot behind the node's own."""
    unread = set(graph.states)
    for node in graph.nodes:
        for name in (name for name in node.inputs if name in unread):
            unread.discard(name)
            yield name
        if node.op in ATTENTION or (node.op in ("cache_write", "cache_read") and not attribute(node, "part")):
            yield from filter(None, (str(node.attrs.get(name) or "") for name in ("slot", "cross_slot")))


def _layers(graph: Graph) -> list[list[str]]:
    """The slots and states each decoder layer reads: a use of a self slot opens a layer, a cross slot joins the open one; states of one number
    (`convolution.3`, `recurrent.3`) are one layer's."""
    layers: list[list[str]] = []
    number = ""  # of the open layer's states
    for name in _uses(graph):
        own = name.rpartition(".")[2] if name in graph.states else ""
        joins = own == number if own else graph.slots[name].kind == "cross"
        if layers and joins:
            layers[-1].append(name)
        else:
            layers.append([name])
        number = own
    return layers


def foreign_to_vendors(emitted: Emitted) -> str:
    """What no vendor's generation loop knows of the artifact; empty where there is nothing."""
    if emitted.cache.has_states:
        return UNKNOWN_TO_VENDORS
    return EXTENT_IS_UNKNOWN if emitted.takes_extents else ""


def longest_call(graph: Graph) -> int | None:
    """How many tokens a row one call of `graph` takes at most; None: any number."""
    return min((int(attribute(node, "chunk")) for node in graph.of_op("delta_rule")), default=None)


def fusions(graph: Graph, rendered: Iterable[Fusion]) -> tuple[Fusion, ...]:
    """The records of `graph`'s layers: what the lowerings said of attention, one softmax over two caches, and recurrent layers."""
    joint = {node.layer or node.output: node for node in graph.of_op("joint_attention")}
    kept = [fusion for fusion in rendered if fusion.layer not in joint]
    kept += [Fusion(layer=layer, form=PLAIN_FORM, fused=False, reason=TWO_CACHES, fusable=False) for layer in joint]
    return (*kept, *recurrences(graph))


def recurrences(graph: Graph) -> Iterator[Fusion]:
    """The record of every recurrent layer. A recurrence that was not recognised is what its original wrote."""
    readers = graph.readers()
    for name, state in graph.states.items():
        if state.kind == "recurrent":
            node = _carrier(name, readers)
            if node is not None and node.op == "delta_rule":
                reason = f"up to {attribute(node, 'chunk')} tokens a call"
                yield Fusion(layer=node.layer or name, form=PARALLEL_FORM, fused=True, reason=reason)
            else:
                layer = name if node is None else node.layer or name
                yield Fusion(layer=layer, form=PLAIN_FORM, fused=False, reason="the recurrence was not recognised")


def _carrier(state: str, readers: dict[str, list[Node]]) -> Node | None:
    """The first node that does more with a state than look at it in another form."""
    found = readers.get(state, [])
    if len(found) == 1 and found[0].op in VIEWS:
        return _carrier(found[0].output, readers)
    return found[0] if found else None


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
        layers=len(_layers(graph)) if graph.states else len(own),
        uniform=len(shapes) <= 1,
    )


def _number(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0
