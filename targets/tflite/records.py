"""The manifest's records of what was written: signatures read off the finished subgraphs, cache slots and sizes off the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec
from kexport.graphs.ir import Graph
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.manifest import Cache, Signature, TensorSpec
from kexport.targets import geometry
from kexport.targets.tflite.interface import SlotNames
from kexport.targets.tflite.model_file import OperatorRecord, Subgraph
from kexport.targets.tflite.plan import SignaturePlan

LAYOUT = ("batch", "key_value_heads", "capacity", "head_dim")
GATHER = "GATHER"
ROW_READERS = {"EMBEDDING_LOOKUP": 1, GATHER: 0}  # operator -> the input of which it reads single rows
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


def whole_rows(wanted: SignaturePlan, file_name: str, subgraph: Subgraph, graph: Graph, shorter: Signature | None) -> Signature:
    """The record of a signature over whole rows: one for all its lengths, of which `shorter` tells those so far. Shapes are the graph's: the one row
    and the length that each form in the file has are `batch` and `sequence`."""

    def specs(side: Iterable[str], values: Mapping[str, str]) -> tuple[TensorSpec, ...]:
        types = ((name, graph.type_of(values.get(name, name))) for name in side)
        return tuple(TensorSpec(name=name, dtype=type_.dtype, shape=type_.shape) for name, type_ in types)

    return Signature(
        name=wanted.graph,
        file=file_name,
        inputs=specs(subgraph.inputs, {}),
        outputs=specs(subgraph.outputs, graph.outputs),
        sequence_lengths=(*(shorter.sequence_lengths if shorter else ()), *((wanted.sequence,) if wanted.sequence else ())),
        returns_logits="all" if names.LOGITS in subgraph.outputs else "none",
        weight_bytes=weight_bytes(subgraph),
    )


def weight_bytes(subgraph: Subgraph) -> int:
    """Bytes of all numbers that a call reads whole, and of what it takes out of a stack of matrices; tables of which operators take rows are
    left out.

    A narrow weight counts as wide as it is multiplied: XNNPACK widens it once, at loading.
    """
    widths: dict[int, int] = {}
    taken = sum(_taken_bytes(operator, subgraph) for operator in subgraph.operators)
    widened = {operator.outputs[0]: operator.inputs[0] for operator in subgraph.operators if operator.form == WIDENING}
    for operator in subgraph.operators:
        for place, index in enumerate(operator.inputs):
            if index < 0 or operator.form == WIDENING or ROW_READERS.get(operator.form) == place:
                continue
            tensor = subgraph.tensors[widened.get(index, index)]
            if tensor.buffer:
                widths[tensor.buffer] = math.prod(tensor.shape) * item_size(subgraph.tensors[index].dtype)
    return sum(widths.values()) + taken


def _taken_bytes(operator: OperatorRecord, subgraph: Subgraph) -> int:
    """Bytes of the one part that an operator takes out of constant numbers, as an expert out of all."""
    if operator.form != GATHER or subgraph.tensors[operator.inputs[1]].shape:
        return 0
    table = subgraph.tensors[operator.inputs[0]]
    return math.prod(table.shape[1:]) * item_size(table.dtype) if table.buffer else 0


def cache(graph: Graph, slot_names: SlotNames, capacity: int, encoder_capacity: int) -> Cache:
    """The caches of `graph`."""
    return msgspec.structs.replace(geometry.cache(graph, slot_names, graph.slots, capacity, LAYOUT), encoder_capacity=encoder_capacity)
