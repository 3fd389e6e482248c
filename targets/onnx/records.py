"""The manifest's records of what was written: signatures, cache slots, sizes. Read off the finished model, not off intentions."""

from __future__ import annotations

import onnx_ir as ir
from kexport.graphs.ir import Graph, Slot
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Cache, Signature, TensorSpec
from kexport.targets import geometry
from kexport.targets.onnx.assemble import DTYPE_NAMES
from kexport.targets.onnx.builder import ONNX_DIMS
from kexport.targets.onnx.traffic import weight_bytes
from kexport.targets.slot_names import SlotNames

LAYOUT = ("batch", "key_value_heads", "capacity", "head_dim")
CAPACITY = "capacity"
DIM_NAMES = {onnx: dim for dim, onnx in ONNX_DIMS.items()} | {ONNX_DIMS["past"]: CAPACITY, ONNX_DIMS["present"]: CAPACITY}


def signature(name: str, file: str, model: ir.Model, graph: Graph) -> Signature:
    """The record of one file, made of `graph`.

    Several new tokens over a past go for one row only: GroupQueryAttention takes no more, and the attention mask does not say how many
    of a row's tokens are new where the rows' pasts differ.
    """
    outputs = tuple(_spec(value) for value in model.graph.outputs)
    logits = next((spec for spec in outputs if spec.name == names.LOGITS), None)
    inputs = tuple(_spec(value) for value in model.graph.inputs)
    return Signature(
        name=name,
        file=file,
        inputs=inputs,
        outputs=outputs,
        returns_logits="none" if logits is None else "last" if logits.shape[1] == 1 else "all",
        max_batch_with_past=1 if any(CAPACITY in spec.shape for spec in inputs) else None,
        max_sequence=geometry.longest_call(graph),
        weight_bytes=weight_bytes(model),
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    return TensorSpec(name=value.name, dtype=DTYPE_NAMES[value.dtype], shape=tuple(_dim(dim) for dim in value.shape))


def _dim(dim: int | ir.SymbolicDim) -> int | str:
    return dim if isinstance(dim, int) else DIM_NAMES.get(str(dim.value), str(dim.value))


def cache(graph: Graph, slot_names: SlotNames, stored: dict[str, Slot], capacity: int) -> Cache:
    """The caches of `graph`. `stored`: the slots with the head sizes of the file, which may be padded."""
    return geometry.cache(graph, slot_names, stored, capacity, LAYOUT)
