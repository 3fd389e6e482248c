"""Names of element types, their sizes, and the numpy types they stand for.

Neither numpy nor ml_dtypes is imported before a numpy type is asked for: reading a manifest needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    import numpy

BITS_PER_BYTE = 8


@dataclass(frozen=True)
class ElementType:
    """One element type: its name in manifests, its size in bits, and the module that gives numpy its type."""

    name: str
    bits: int
    numpy_module: str = "numpy"
    numpy_name: str = ""


_TYPES = {
    element.name: element
    for element in (
        ElementType("float64", 64),
        ElementType("float32", 32),
        ElementType("float16", 16),
        ElementType("bfloat16", 16, "ml_dtypes"),
        ElementType("float8_e4m3fn", 8, "ml_dtypes"),
        ElementType("float8_e5m2", 8, "ml_dtypes"),
        ElementType("int64", 64),
        ElementType("int32", 32),
        ElementType("int16", 16),
        ElementType("int8", 8),
        ElementType("int4", 4, "ml_dtypes"),
        ElementType("uint64", 64),
        ElementType("uint32", 32),
        ElementType("uint16", 16),
        ElementType("uint8", 8),
        ElementType("uint4", 4, "ml_dtypes"),
        ElementType("bool", 8, "numpy", "bool_"),
    )
}


def element_type(name: str) -> ElementType:
    """The element type called `name`. Raises InvalidInputError (KX509) for a name that is not one."""
    try:
        return _TYPES[name]
    except KeyError:
        raise InvalidInputError("KX509", f"`{name}` is not the name of an element type", hint=f"known: {', '.join(_TYPES)}") from None


def item_size(name: str) -> int:
    """Bytes of one element; types below one byte count as one (`byte_size` packs them)."""
    return byte_size(name, 1)


def byte_size(name: str, count: int) -> int:
    """Bytes that `count` elements take; types below one byte are packed, the last byte padded."""
    return (element_type(name).bits * count + BITS_PER_BYTE - 1) // BITS_PER_BYTE


def numpy_dtype(name: str) -> numpy.dtype[Any]:
    """The numpy type called `name`.

    Raises InvalidInputError (KX509) for an unknown name, UnsupportedError (KX511) where numpy needs ml_dtypes and it is not installed.
    """
    import importlib

    import numpy

    element = element_type(name)
    try:
        module = importlib.import_module(element.numpy_module)
    except ModuleNotFoundError as error:
        hint = f"pip install {element.numpy_module}"
        raise UnsupportedError("KX511", f"numpy has no `{name}` without `{element.numpy_module}`", hint=hint) from error
    dtype: numpy.dtype[Any] = numpy.dtype(getattr(module, element.numpy_name or element.name))
    return dtype


def name_of(dtype: Any) -> str:
    """The name of a numpy type (or of anything numpy takes as one). Raises InvalidInputError (KX509) for types manifests do not know."""
    import numpy

    name: str = numpy.dtype(dtype).name
    return element_type(name).name
