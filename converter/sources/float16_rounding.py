"""What rounding to float16 does to a safetensors checkpoint: counted on all values of small files, on a spread of blocks of large ones."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WHOLE_UP_TO = 1 << 23  # values: below a second to look at
BLOCK = 4096
BLOCKS_PER_TENSOR = 8
_LENGTH_BYTES = 8
_SHOWN = 2


@dataclass(frozen=True)
class Rounding:
    """`looked_at` of `total` values: how many change, and how many become infinite. `tensors`: some of those with changes, the worst first."""

    total: int
    looked_at: int
    changed: int
    infinite: int
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        share = f"all {self.total:,} values" if self.looked_at == self.total else f"{self.looked_at:,} of {self.total:,} values"
        return f"of {share} {self.changed:,} change and {self.infinite:,} become infinite" + (
            f", most in {' and '.join(f'`{name}`' for name in self.tensors)}" if self.tensors else ""
        )


def rounding_to_float16(files: Iterable[Path]) -> Rounding:
    """Count. The files' headers were checked when they were opened; tensors that are no floats count as unchanged."""
    tensors = [entry for path in files for entry in _tensors(path)]
    total = sum(array.size for _, array in tensors)
    looked_at = changed = infinite = 0
    worst: list[tuple[int, int, str]] = []
    for name, array in tensors:
        counts = np.sum([_count(block) for block in _blocks(array, whole=total <= WHOLE_UP_TO)], axis=0, initial=0)
        size, now_other, now_infinite = (int(count) for count in np.broadcast_to(counts, 3))
        looked_at, changed, infinite = looked_at + size, changed + now_other, infinite + now_infinite
        if now_other:
            worst.append((now_infinite, now_other, name))
    worst.sort(reverse=True)
    return Rounding(total, looked_at, changed, infinite, tuple(name for *_, name in worst[:_SHOWN]))


def _tensors(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Every float tensor, mapped and flat."""
    import ml_dtypes

    dtypes = {"F64": np.float64, "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        size = math.prod(entry["shape"]) if name != "__metadata__" else 0
        if size and entry["dtype"] in dtypes:
            start = _LENGTH_BYTES + length + entry["data_offsets"][0]
            yield name, np.memmap(path, np.dtype(dtypes[entry["dtype"]]), "r", start, (size,))


def _blocks(array: npt.NDArray[Any], *, whole: bool) -> Iterator[npt.NDArray[Any]]:
    if whole or array.size <= BLOCK * BLOCKS_PER_TENSOR:
        yield array
        return
    for start in np.linspace(0, array.size - BLOCK, BLOCKS_PER_TENSOR).astype(int):
        yield array[start : start + BLOCK]


def _count(values: npt.NDArray[Any]) -> tuple[int, int, int]:
    """(values, those that change, those that become infinite)."""
    wide = values.astype(np.float64 if values.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore", under="ignore"):
        rounded = wide.astype(np.float16)
    changed = (rounded.astype(wide.dtype) != wide) & ~np.isnan(wide)
    return len(wide), int(changed.sum()), int((np.isinf(rounded) & np.isfinite(wide)).sum())
