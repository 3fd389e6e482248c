"""Adapters that are chosen when an artifact runs: read from `adapters/<name>.safetensors`, added to the few stored tensors they change.

The manifest says which factors are multiplied and where their products go (`Adapter.tensors`). Sums are made in float32 and rounded to
what the tensor is stored in. The file's layout is read here: eight bytes with the header's length, the header in JSON, the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Adapter, AdapterPart, AdapterTensor, Manifest
from kexport.runtime.contract.paths import open_path

Array = npt.NDArray[Any]

_LENGTH_BYTES = 8
_LARGEST_HEADER = 64 << 20
_FLOAT32 = "F32"
_FLOAT_BYTES = 4
_BFLOAT16 = "bfloat16"
_DAMAGED = "convert the model again, or fetch the artifact from its source again"


def changed_tensors(directory: Path, adapter: Adapter, file: str) -> Iterator[tuple[AdapterTensor, Array]]:
    """Each tensor of the model file `file` that the adapter changes, with its new contents: an array of the tensor's shape in its stored
    dtype, bfloat16 as its bit patterns (uint16). One at a time is in memory.

    Raises InvalidInputError (KX371) where the adapter's file, the weights and the manifest do not fit each other.
    """
    factors = read_factors(open_path(directory, adapter.file))
    for tensor in adapter.tensors:
        if tensor.file == file:
            yield tensor, _changed(tensor, _stored(directory, tensor), factors)


def find_adapter(manifest: Manifest, name: str | None) -> Adapter | None:
    """The adapter called `name`; None: none. Raises InvalidInputError (KX370) for a name that the artifact does not have."""
    known = manifest.separate_adapters()
    if name is not None and name not in known:
        hint = f"it has: {', '.join(known)}" if known else "adapters come in with `kexport convert --lora FILE --lora-mode separate`"
        raise InvalidInputError("KX370", f"the artifact has no adapter `{name}`", hint=hint)
    return None if name is None else known[name]


def read_factors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file, as views of its mapped bytes.

    Raises InvalidInputError (KX371) for a damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(_LARGEST_HEADER, size - _LENGTH_BYTES):
            raise _wrong(f"`{path.name}` is no adapter file: its header would have {length} bytes")
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _factor(path, entry, _LENGTH_BYTES + length, size) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _wrong(f"the header of `{path.name}` cannot be read: {error}") from error


def _factor(path: Path, entry: Mapping[str, Any], data: int, size: int) -> Array:
    shape, (start, stop) = tuple(int(length) for length in entry["shape"]), entry["data_offsets"]
    if entry["dtype"] != _FLOAT32 or min(shape, default=1) < 1:
        raise ValueError(f"a tensor of {entry['dtype']} {shape}")
    if not 0 <= start < stop <= size - data or stop - start != _FLOAT_BYTES * math.prod(shape):
        raise ValueError(f"a tensor of {shape} from {start} to {stop}")
    return np.memmap(path, "<f4", "r", data + start, shape)


def _stored(directory: Path, tensor: AdapterTensor) -> Array:
    """The tensor as the artifact stores it."""
    path = open_path(directory, tensor.data)
    count = math.prod(tensor.shape)
    if tensor.offset < 0 or tensor.offset + count * item_size(tensor.dtype) > path.stat().st_size or count < 1:
        raise _wrong(f"`{tensor.name}` would end behind the end of `{tensor.data}`")
    return np.memmap(path, _plain_dtype(tensor.dtype), "r", tensor.offset, tensor.shape)


def _changed(tensor: AdapterTensor, stored: Array, factors: Mapping[str, Array]) -> Array:
    result = _widened(stored, tensor.dtype)
    for part in tensor.parts:
        try:
            result += _delta(part, factors, tensor.shape)
        except (KeyError, ValueError) as error:
            raise _wrong(f"the adapter does not fit the tensor `{tensor.name}`: {error}") from error
    return _narrowed(result, tensor.dtype)


def _delta(part: AdapterPart, factors: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """What `part` adds to a tensor of `shape`. Nothing larger than that tensor is made, whatever the records say."""
    a, b, most = factors[part.a], factors[part.b], math.prod(shape)
    _check_size(math.prod((*a.shape[:-1], *b.shape[1:])), most)
    delta = np.asarray(np.float32(part.scale) * np.matmul(a, b))
    for step in part.steps:
        delta = _STEPS[step.kind](delta, step.numbers, most)
    if delta.shape != shape:
        raise ValueError(f"it changes {list(delta.shape)} of {list(shape)}")
    return delta


def _padded(array: Array, numbers: tuple[int, ...], most: int) -> Array:
    around = list(zip(numbers[::2], numbers[1::2], strict=True))
    _check_size(math.prod(before + size + after for size, (before, after) in zip(array.shape, around, strict=True)), most)
    return np.pad(array, around)


def _check_size(count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"{count} numbers for a tensor of {most}")


_STEPS: dict[str, Callable[[Array, tuple[int, ...], int], Array]] = {
    "transpose": lambda array, numbers, _: array.transpose(numbers),
    "reshape": lambda array, numbers, _: array.reshape(numbers),
    "pad": _padded,
}


def _plain_dtype(dtype: str) -> np.dtype[Any]:
    """numpy's dtype; bfloat16, which numpy does not have, as bit patterns."""
    return np.dtype(np.uint16) if dtype == _BFLOAT16 else np.dtype(dtype)


def _widened(stored: Array, dtype: str) -> Array:
    """A float32 copy."""
    if dtype == _BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.array(stored, np.float32)


def _narrowed(numbers: Array, dtype: str) -> Array:
    """`numbers` rounded to `dtype`, to the nearest, ties to even."""
    if dtype != _BFLOAT16:
        return numbers.astype(_plain_dtype(dtype), copy=False)
    bits = numbers.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _wrong(message: str) -> InvalidInputError:
    return InvalidInputError("KX371", message, hint=_DAMAGED)
