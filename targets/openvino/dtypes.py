"""Dtype names and OpenVINO element types."""

from __future__ import annotations

import openvino as ov
from kexport.runtime.contract.errors import UnsupportedError

ELEMENTS = {
    "float64": ov.Type.f64, "float32": ov.Type.f32, "float16": ov.Type.f16, "bfloat16": ov.Type.bf16,
    "int64": ov.Type.i64, "int32": ov.Type.i32, "int16": ov.Type.i16, "int8": ov.Type.i8,
    "uint8": ov.Type.u8, "bool": ov.Type.boolean,
}  # fmt: skip
DTYPE_NAMES = {element.to_string(): name for name, element in ELEMENTS.items()}


def element_type(dtype: str) -> ov.Type:
    """The element type of a dtype name.

    Raises:
        UnsupportedError: OpenVINO has none.
    """
    if dtype not in ELEMENTS:
        raise UnsupportedError("KX211", f"the OpenVINO target has no element type for `{dtype}`")
    return ELEMENTS[dtype]


def dtype_name(element: ov.Type) -> str:
    """The dtype name of an element type."""
    return DTYPE_NAMES[element.to_string()]
