"""The manifest's records of what was written: signatures, read off the finished model."""

from __future__ import annotations

from typing import Any

import openvino as ov
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Signature, TensorSpec
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.dtypes import dtype_name

LAYOUT = ("batch", "key_value_heads", "length", "head_dim")


def signature(name: str, file: str, model: ov.Model, b: Builder, max_sequence: int | None = None) -> Signature:
    """The record of one file. Rows are padded on the left, so that the last column is every row's last token; whole rows on the right."""
    outputs = tuple(_spec(tensor, b) for tensor in model.outputs)
    logits = next((spec for spec in outputs if spec.name == names.LOGITS), None)
    return Signature(
        name=name,
        file=file,
        data="" if b.file.path.stem == file.removesuffix(".xml") else b.file.path.name,
        inputs=tuple(_spec(tensor, b) for tensor in model.inputs),
        outputs=outputs,
        returns_logits="none" if logits is None else "last" if logits.shape[1] == 1 else "all",
        max_sequence=max_sequence,
        padding_side="right" if name in (names.ENCODE, *names.FORWARD) else "left",
        weight_bytes=b.matrix_bytes,
    )


def _spec(tensor: Any, b: Builder) -> TensorSpec:
    """One input or output, with the names of its open axes, which OpenVINO does not keep."""
    (name,) = tensor.get_names()
    return TensorSpec(name=name, dtype=dtype_name(tensor.get_element_type()), shape=b.shapes[name])
