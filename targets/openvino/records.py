"""The manifest's records of what was written: signatures, read off the finished model."""

from __future__ import annotations

from typing import Any

import openvino as ov
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Signature, TensorSpec
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.dtypes import dtype_name

LAYOUT = ("batch", "key_value_heads", "length", "head_dim")
OPEN_AXES = {
    names.ATTENTION_MASK: ("batch", "total"),
    names.ENCODER_ATTENTION_MASK: ("batch", "encoder_sequence"),
    names.INPUT_IDS: ("batch", "sequence"),
    names.POSITION_IDS: ("batch", "sequence"),
    names.LOGITS: ("batch", "sequence"),
}
ENCODER_AXES = ("batch", "encoder_sequence")  # of all other tensors, and of everything in the encoder


def signature(name: str, file: str, model: ov.Model, b: Builder) -> Signature:
    """The record of one file. Rows are padded on the left: the last column is every row's last token."""
    encoder = name == names.ENCODE
    outputs = tuple(_output_spec(tensor, encoder, b) for tensor in model.outputs)
    logits = next((spec for spec in outputs if spec.name == names.LOGITS), None)
    return Signature(
        name=name,
        file=file,
        inputs=tuple(_spec(tensor, encoder) for tensor in model.inputs),
        outputs=outputs,
        returns_logits="none" if logits is None else "last" if logits.shape[1] == 1 else "all",
        padding_side="right" if encoder else "left",
        weight_bytes=b.matrix_bytes,
    )


def _output_spec(tensor: Any, encoder: bool, b: Builder) -> TensorSpec:
    """An output, with the shape that the graph knows where it has an output of that name: OpenVINO sees no size in a slice's."""
    spec, value = _spec(tensor, encoder), b.graph.outputs.get(next(iter(tensor.get_names())))
    return spec if value is None else TensorSpec(name=spec.name, dtype=spec.dtype, shape=b.type_of(value).shape)


def _spec(tensor: Any, encoder: bool) -> TensorSpec:
    """One input or output; the open axes of its shape are named in order."""
    (name,) = tensor.get_names()
    open_axes = iter(ENCODER_AXES if encoder else OPEN_AXES.get(name, ENCODER_AXES))
    shape = tuple(next(open_axes) if dim.is_dynamic else dim.get_length() for dim in tensor.get_partial_shape())
    return TensorSpec(name=name, dtype=dtype_name(tensor.get_element_type()), shape=shape)
