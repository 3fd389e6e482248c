"""The manifest's records of what was written: signatures read off the finished subgraphs, cache slots and sizes off the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kexport.graphs.dims import Dim
from kexport.graphs.ir import Graph
from kexport.graphs.ops import attribute
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.manifest import Cache, CacheSlot, Signature, TensorSpec
from kexport.targets.base import Geometry
from kexport.targets.tflite.interface import SlotNames
from kexport.targets.tflite.model_file import Subgraph
from kexport.targets.tflite.plan import SignaturePlan

LAYOUT = ("batch", "key_value_heads", "capacity", "head_dim")
ROW_READERS = {"EMBEDDING_LOOKUP": 1, "GATHER": 0}  # operator -> the input of which it reads single rows
WIDENING = "DEQUANTIZE"


def signature(wanted: SignaturePlan, file_name: str, subgraph: Subgraph) -> Signature:
    """The record of one signature."""

    def specs(side: dict[str, int]) -> tuple[TensorSpec, ...]:
        tensors = ((name, subgraph.tensors[index]) for name, index in side.items())
        return tuple(TensorSpec(name=name, dtype=tensor.dtype, shape=tensor.shape) for name, tensor in tensors)

    return Signature(
        name=wanted.name,
        file=file_name,
        inputs=specs(subgraph.inputs),
        outputs=specs(subgraph.outputs),
        sequence_lengths=(wanted.sequence,),
        returns_logits="last" if names.LOGITS in subgraph.outputs else "none",
        max_batch_with_past=1,
        weight_bytes=weight_bytes(subgraph),
    )


def weight_bytes(subgraph: Subgraph) -> int:
    """Bytes of all numbers that a call reads whole; tables of which operators take rows are left out.

    A narrow weight counts as wide as it is multiplied: XNNPACK widens it once, at loading.
    """
    widths: dict[int, int] = {}
    widened = {operator.outputs[0]: operator.inputs[0] for operator in subgraph.operators if operator.form == WIDENING}
    for operator in subgraph.operators:
        for place, index in enumerate(operator.inputs):
            if index < 0 or operator.form == WIDENING or ROW_READERS.get(operator.form) == place:
                continue
            tensor = subgraph.tensors[widened.get(index, index)]
            if tensor.buffer:
                widths[tensor.buffer] = math.prod(tensor.shape) * item_size(subgraph.tensors[index].dtype)
    return sum(widths.values())


def cache(graph: Graph, slot_names: SlotNames, capacity: int, encoder_capacity: int) -> Cache:
    """The caches of `graph`."""
    windows = _windows(graph)
    slots = tuple(
        CacheSlot(
            name=name,
            kind=slot.kind,
            num_key_value_heads=slot.num_key_value_heads,
            head_dim=slot.head_dim,
            value_head_dim=slot.value_head_dim,
            dtype=slot.dtype,
            layout=LAYOUT,
            inputs=slot_names.of(name),
            outputs=slot_names.of(name),
            window=windows.get(name),
        )
        for name, slot in graph.slots.items()
    )
    own = [slot for slot in graph.slots.values() if slot.kind == "self"]
    per_token = sum(slot.num_key_value_heads * (slot.head_dim + slot.value_head_dim) * item_size(slot.dtype) for slot in own)
    layers = tuple(tuple(layer) for layer in _layers(graph))
    return Cache(slots=slots, layers=layers, capacity=capacity, encoder_capacity=encoder_capacity, bytes_per_token=per_token)


def _slot_uses(graph: Graph) -> Iterable[str]:
    """The slot of every node that uses one, in order; keys and values of one attention count once."""
    for node in graph.of_op("attention", "cache_write", "cache_read"):
        slot = attribute(node, "slot")
        if slot and not (node.op != "attention" and attribute(node, "part")):
            yield str(slot)


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
    for node in graph.of_op("attention"):
        if attribute(node, "slot"):
            seen.setdefault(str(attribute(node, "slot")), []).append(attribute(node, "window"))
    return {slot: max((w for w in windows if w), default=None) if all(windows) else None for slot, windows in seen.items()}


def geometry(graph: Graph) -> Geometry:
    """The sizes of `graph` that vendors' runtimes ask for."""
    own = [slot for slot in graph.slots.values() if slot.kind == "self"]
    shapes = {(slot.num_key_value_heads, slot.head_dim) for slot in own}
    heads = [graph.type_of(node.input(0)).shape[2] for node in graph.of_op("attention") if attribute(node, "write")]
    tables = [graph.type_of(node.input(0)).shape for node in graph.of_op("embedding")]
    logits = graph.type_of(graph.outputs[names.LOGITS]).shape if names.LOGITS in graph.outputs else (0,)
    return Geometry(
        hidden_size=_number(tables[0][1]) if tables else 0,
        vocabulary_size=_number(logits[-1]),
        attention_heads=_number(heads[0]) if heads else 0,
        key_value_heads=own[0].num_key_value_heads if own else 0,
        stored_head_dim=own[0].head_dim if own else 0,
        layers=len(own),
        uniform=len(shapes) <= 1,
    )


def _number(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0
