"""The k most probable tokens in the order in which TensorFlow lists them: a draw picks a place in that list, so the order counts.

`sorted=True` is descending, equal values by smaller id. `sorted=False` on the CPU leaves the order of a binary heap, kept as the
C++ standard library's heap functions keep it; the steps are written out here (Williams' heap with the "sift to the
bottom, then up" removal). Under XLA both are sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_FIRST_SCAN = 256
_NUCLEUS_TRY = 1024


def descending(probabilities: Probabilities, count: int) -> Ids:
    """The `count` largest of [vocabulary], largest first, equal values by smaller id."""
    if count < len(probabilities):
        smallest_kept = np.partition(probabilities, len(probabilities) - count)[len(probabilities) - count]
        contenders = np.flatnonzero(probabilities >= smallest_kept)
    else:
        contenders = np.arange(len(probabilities))
    order = np.argsort(-probabilities[contenders], kind="stable")[:count]
    return contenders[order].astype(np.int64)


def nucleus(probabilities: Probabilities, mass: float, count: int) -> Ids:
    """Of the `count` largest in descending order those whose running float32 sum stays within `mass`, and the one that crosses it."""
    few = min(count, _NUCLEUS_TRY)
    ids = descending(probabilities, few)
    running = np.cumsum(probabilities[ids], dtype=np.float32)
    if few < count and running[-1] <= np.float32(mass):
        ids = descending(probabilities, count)
        running = np.cumsum(probabilities[ids], dtype=np.float32)
    kept = int(np.count_nonzero(running <= np.float32(mass)))  # the sum never falls: those within are the first ones
    return ids[: kept + 1]


def heap_order(probabilities: Probabilities, count: int) -> Ids:
    """The `count` largest of [vocabulary] as TensorFlow's CPU kernel of `top_k(sorted=False)` lists them."""
    size = len(probabilities)
    if count == 1:
        return np.array([int(np.argmax(probabilities))], np.int64)
    if count == size:
        return descending(probabilities, count)
    heap = _WorstFirstHeap(probabilities, count)
    start, width = count + 1, _FIRST_SCAN
    while start < size:  # scan ever wider stretches: only values above the worst kept one can enter
        stretch = probabilities[start : start + width]
        for offset in np.flatnonzero(stretch > probabilities[heap.worst]).tolist():
            heap.offer(start + offset)
        start, width = start + width, 2 * width
    return np.array(heap.ids, np.int64)


def gap_of_order(probabilities: Probabilities, count: int) -> float:
    """The smallest distance of log-probabilities on which the list of the `count` largest and its order hang; infinite where there is only one order.

    The order of a heap hangs on values, too, that were in it for a while and are none of the largest. They are left out here: counted in, nearly
    every step of a large vocabulary would seem to hang on rounding.
    """
    ids = descending(probabilities, min(count + 1, len(probabilities)))
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities[ids].astype(np.float64))
    logs = logs[np.isfinite(logs)]
    return float((logs[:-1] - logs[1:]).min(initial=np.inf))


class _WorstFirstHeap:
    """The best ids seen so far, the worst of them at the root. An id is better for a larger value, or for an equal one and a smaller id."""

    def __init__(self, values: npt.NDArray[Any], count: int) -> None:
        """Takes the first `count` + 1 ids and drops the worst of them."""
        self._values = values
        self.ids = list(range(count + 1))
        for parent in range((count - 1) // 2, -1, -1):
            self._sink(parent, count + 1, self.ids[parent])
        last, self.ids[count] = self.ids[count], self.ids[0]
        self._sink(0, count, last)
        self.ids.pop()

    @property
    def worst(self) -> int:
        return self.ids[0]

    def offer(self, identifier: int) -> None:
        """Let `identifier` replace the worst if it is better."""
        if not self._better(identifier, self.worst):
            return
        last = len(self.ids) - 1
        self._sink(0, last, self.ids[last])
        self._rise(last, 0, identifier)

    def _better(self, one: int, other: int) -> bool:
        value, other_value = self._values[one], self._values[other]
        return bool(value > other_value or (value == other_value and one < other))

    def _sink(self, hole: int, size: int, identifier: int) -> None:
        """Move the hole down along the worse children to a leaf, then let `identifier` rise from there."""
        top, child = hole, hole
        while child < (size - 1) // 2:
            child = 2 * (child + 1)
            if self._better(self.ids[child], self.ids[child - 1]):
                child -= 1
            self.ids[hole] = self.ids[child]
            hole = child
        if size % 2 == 0 and child == (size - 2) // 2:  # the last parent has one child only
            child = 2 * (child + 1) - 1
            self.ids[hole] = self.ids[child]
            hole = child
        self._rise(hole, top, identifier)

    def _rise(self, hole: int, top: int, identifier: int) -> None:
        """Move better parents down, as far as `top`, and put `identifier` into the hole."""
        parent = (hole - 1) // 2
        while hole > top and self._better(self.ids[parent], identifier):
            self.ids[hole] = self.ids[parent]
            hole = parent
            parent = (hole - 1) // 2
        self.ids[hole] = identifier


UNSORTED_ORDERS = {"tf_cpu": heap_order, "xla": descending}
"""`top_k(sorted=False)` by the original's kernels, `Rng.mode`."""
