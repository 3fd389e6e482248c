"""The machine's memory bandwidth: reading an array that no cache holds, on as many threads as the artifact runs on.

Whoever measures between an engine's calls must wait first (`REST_SECONDS`): engines' threads spin after a call and take cores from the probe.
Measured with onnxruntime: 25 GB/s right after a step and 20 ms later, 36 GB/s from 100 ms on. A probe that does not wait flatters the engine.

Which reduction reads fastest depends on the processor and on numpy's build (a sum of floats may be bound by its own additions), so several
are tried and the fastest is used. All of them let other threads run while they read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

ARRAY_BYTES = 512 << 20  # many times a last-level cache: of 256 MB an eighth came from 32 MB of cache, of 64 MB half (measured)
REST_SECONDS = 0.3
_TRIES = 3

Part = npt.NDArray[Any]
READERS: dict[str, Callable[[Part], object]] = {
    "float32 dot": lambda part: np.dot(part, part),
    "int64 or": lambda part: np.bitwise_or.reduce(part.view(np.int64)),
    "int64 sum": lambda part: np.add.reduce(part.view(np.int64)),
    "float32 max": np.max,
}


class BandwidthProbe:
    """Measures bytes per second, again and again with the same array. `reader`: the reduction that was the fastest."""

    def __init__(self, threads: int) -> None:
        array = np.ones(ARRAY_BYTES // np.dtype(np.float32).itemsize, np.float32)
        self._parts = np.array_split(array, threads)
        self._pool = ThreadPoolExecutor(threads)
        speeds = {name: max(self._run(reader) for _ in range(_TRIES)) for name, reader in READERS.items()}
        self.reader = max(speeds, key=lambda name: speeds[name])

    def measure(self) -> float:
        """Bytes per second of the fastest of a few passes over the array: a floor must not lie above what is possible."""
        return max(self._run(READERS[self.reader]) for _ in range(_TRIES))

    def close(self) -> None:
        """End the threads and give the array back."""
        self._pool.shutdown()
        self._parts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, reader: Callable[[Part], object]) -> float:
        started = time.perf_counter()
        for _ in self._pool.map(reader, self._parts):
            pass
        return ARRAY_BYTES / (time.perf_counter() - started)
