"""The `.bin` file: every constant of a model at its own offset, written once and read back as mapped memory.

Weights are appended one at a time while the graph is built, in blocks of rows, so that neither the transposed copy that a matrix
needs nor the model as a whole is ever in memory; the constants of the model under construction are the mapped file itself. Several
models may stand on one file: what one of them wrote is there for the next.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract.manifest import File
from kexport.targets.base import TensorHook
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and the width of the widest registers
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a constant stands in the file."""

    offset: int
    size: int


class WeightFile:
    """A `.bin` file under construction."""

    def __init__(self, path: Path, on_tensor: TensorHook | None = None) -> None:
        self.path = path
        self._on_tensor = on_tensor
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._size = 0
        self._small: dict[bytes, Place] = {}
        self._weights: dict[Weight, Place] = {}

    def enter(self, weight: Weight, source: WeightSource) -> Place:
        """Where `weight` stands: it is read and written at the first request, unless it is there already as some rows of another one."""
        if weight not in self._weights:
            place = self.append(weight.label, weight.materialize(source))
            self._weights |= _rows(weight, place)
            self._weights[weight] = place
        return self._weights[weight]

    def append(self, name: str, array: NDArray[Any]) -> Place:
        """Write a tensor, which may be a strided view; the hook sees it first."""
        if self._on_tensor is not None:
            self._on_tensor(name, array)
        place = self._start(array.nbytes)
        rows = max(1, BLOCK_BYTES * len(array) // max(array.nbytes, 1)) if array.ndim else 1
        for block in [array] if not array.ndim else (array[start : start + rows] for start in range(0, len(array), rows)):
            self._write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        return place

    def append_bytes(self, content: bytes) -> Place:
        """Write a small constant; equal ones stand in the file once."""
        if content not in self._small:
            self._small[content] = self._start(len(content))
            self._write(content)
        return self._small[content]

    def mapped(self, place: Place, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The written tensor as mapped memory (private: OpenVINO takes no read-only arrays)."""
        self._file.flush()
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(self.path, dtype, "c", place.offset, shape)

    def close(self) -> File:
        """Finish. Returns the file's record."""
        self._file.close()
        return File(path=self.path.name, bytes=self._size, sha256=self._digest.hexdigest())

    def _start(self, size: int) -> Place:
        self._write(b"\0" * (-self._size % ALIGNMENT))
        return Place(self._size, size)

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)


def _rows(weight: Weight, place: Place) -> dict[Weight, Place]:
    """Where the weights stand that `weight` is stacked of: those that start as weights must."""
    found: dict[Weight, Place] = {}
    offset = place.offset
    for part in weight.stacked():
        if offset % ALIGNMENT == 0:
            found[part] = Place(offset, part.nbytes)
        offset += part.nbytes
    return found
