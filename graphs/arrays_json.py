"""Constants in JSON: small finite ones as numbers a reader can see, all others as little-endian bytes in base64."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import msgspec
import numpy as np
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import KexportError
from numpy.typing import NDArray

READABLE = 16  # arrays of at most so many numbers are written as numbers
READABLE_DTYPES = frozenset({"bool", "int32", "int64", "float32"})


class ArrayRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array: `values` flat, or `base64`."""

    dtype: str
    shape: tuple[int, ...]
    values: list[bool | int | float] | None = None
    base64: str | None = None


def array_record(array: NDArray[Any]) -> dict[str, Any]:
    """The array as JSON values; which form is taken depends on the array only."""
    result: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    readable = array.dtype.name in READABLE_DTYPES and array.size <= READABLE and bool(np.isfinite(array).all())
    if readable:
        result["values"] = array.ravel().tolist()
    else:
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        result["base64"] = base64.b64encode(little.tobytes()).decode("ascii")
    return result


def record_array(record: ArrayRecord) -> NDArray[Any]:
    """The array of a record.

    Raises:
        ValueError: unknown dtype, both or no form given, or another number of values than the shape has.
        ArithmeticError: a number beyond the dtype.
    """
    try:
        dtype = numpy_dtype(record.dtype)
    except KexportError as error:
        raise ValueError(error.message) from error
    if (record.values is None) == (record.base64 is None) or any(size < 0 for size in record.shape):
        raise ValueError(f"an array of shape {record.shape} needs either `values` or `base64`")
    if record.values is not None:
        given = np.asarray(record.values) if record.values else np.zeros(0, dtype)
        with np.errstate(over="raise"):
            flat = given.astype(dtype)
        if dtype.kind in "biu" and not np.array_equal(flat, given):
            raise ValueError(f"{record.values} are no numbers of dtype {record.dtype}")
    else:
        try:
            data = base64.b64decode(record.base64 or "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"base64: {error}") from error
        if dtype.kind == "b" and data.strip(b"\0\1"):
            raise ValueError("a bool is neither 0 nor 1")
        flat = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    if flat.size != math.prod(record.shape):
        raise ValueError(f"an array of shape {record.shape} holds {flat.size} numbers")
    return flat.reshape(record.shape)
