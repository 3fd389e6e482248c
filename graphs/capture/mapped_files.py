"""Tensors of checkpoint files as lazy arrays over mapped memory: HDF5 datasets (also inside a `.keras` archive) and safetensors.

Mapped pages belong to the file: they are read when touched and can be dropped by the system at any time, so they cost no private
memory. A dataset that is chunked, compressed or small is read through h5py when asked for.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
from kexport.graphs.capture.lazy_array import LazyArray
from kexport.runtime.contract.errors import InvalidInputError
from numpy.typing import NDArray

SMALLEST_MAPPED = 1 << 16
LOCAL_HEADER_SIZE = 30
LOCAL_HEADER_NAME_LENGTHS = 26
HEADER_LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
SAFETENSORS_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


class FileRange(io.RawIOBase):
    """The bytes [start, start + size) of a file as a file of its own: an HDF5 file stored uncompressed in a zip archive."""

    def __init__(self, path: str, start: int, size: int) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed with this object
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        count = self._file.readinto(view) or 0
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


def stored_member(archive: str, member: str) -> tuple[int, int] | None:
    """(offset, size) of a zip member that is stored uncompressed, None if it is compressed."""
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    with open(archive, "rb") as file:
        file.seek(info.header_offset + LOCAL_HEADER_NAME_LENGTHS)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + LOCAL_HEADER_SIZE + name_length + extra_length, info.file_size


def lazy_dataset(dataset: h5py.Dataset, path: str, start: int = 0, size: int = 0) -> LazyArray:
    """An HDF5 dataset as a lazy array. `path`, `start`, `size`: the file, and where the HDF5 data lie in it."""
    name, shape = dataset.name, tuple(dataset.shape)
    dtype = np.dtype(ml_dtypes.bfloat16) if dataset.attrs.get("dtype") == "bfloat16" else dataset.dtype
    offset = dataset.id.get_offset()
    origin = f"{Path(path).name}:{name}"
    plain = offset is not None and dataset.chunks is None and dataset.compression is None and shape
    if plain and math.prod(shape) * dtype.itemsize >= SMALLEST_MAPPED:
        return LazyArray(shape, dtype, lambda: np.memmap(path, dtype, "c", start + offset, shape), origin)

    def read() -> NDArray[Any]:
        with h5py.File(FileRange(path, start, size) if start else path, "r") as file:
            array = np.asarray(file[name][()])
        return array.view(dtype) if array.dtype.kind == "V" else array.astype(dtype, copy=False)

    return LazyArray(shape, dtype, read, origin)


def safetensors_header(path: str) -> tuple[dict[str, Any], int]:
    """(tensor name -> entry, offset of the data) of a safetensors file.

    Raises:
        InvalidInputError: the header is malformed, or a tensor lies outside the file.
    """
    total = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == HEADER_LENGTH_BYTES else total
        if length > min(total - HEADER_LENGTH_BYTES, LARGEST_HEADER):
            raise InvalidInputError("KX421", f"{Path(path).name} is no whole safetensors file", hint="download it again")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    data = HEADER_LENGTH_BYTES + length
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]]) if entry["dtype"] in SAFETENSORS_DTYPES else None
        fits = 0 <= begin <= end <= total - data and dtype is not None and end - begin == math.prod(entry["shape"]) * dtype.itemsize
        if not fits:
            raise InvalidInputError("KX421", f"{Path(path).name}: tensor `{name}` does not lie in the file as its header says", hint="download it again")
    return entries, data


def lazy_safetensor(path: str, name: str, entries: dict[str, Any], data: int) -> LazyArray:
    """One tensor of a safetensors file as a lazy array."""
    entry = entries[name]
    shape, dtype, begin = tuple(entry["shape"]), np.dtype(SAFETENSORS_DTYPES[entry["dtype"]]), entry["data_offsets"][0]

    def read() -> NDArray[Any]:
        if not shape or 0 in shape:
            return np.fromfile(path, dtype, math.prod(shape), offset=data + begin).reshape(shape)
        return np.memmap(path, dtype, "c", data + begin, shape)

    return LazyArray(shape, dtype, read, f"{Path(path).name}:{name}")
