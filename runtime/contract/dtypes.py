"""Dtype names and what they mean: sizes in bytes and numpy types. `bfloat16` is known by name without loading its library."""

from __future__ import annotations

from typing import Any

import numpy as np

ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def item_size(name: str) -> int:
    """Bytes of one number."""
    return ITEM_SIZES[name]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype called `name`; bfloat16 needs `ml_dtypes`, imported only then."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
