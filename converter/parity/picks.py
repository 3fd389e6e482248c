"""How a case's sampler picks a token from logits, and how near it is to picking another one.

The near rule is one for all samplers: where the original's own logits, two of them moved towards each other by at most the rule's gap, would give
another token. For a greedy choice that is the distance of its two largest logits. For a seeded draw it is the distance of the number drawn
from the nearest step of the original's cumulative distribution, on the scale of logits (runtime/samplers/categorical.py, `gap`, derives it),
or of two candidates whose order decides what the steps are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case
from kexport.runtime import samplers
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.base import Draw
from numpy.typing import NDArray


def top_two_gap(logits: NDArray[Any]) -> float:
    """The distance between the two largest numbers of the last axis."""
    two = np.partition(logits, -2)[-2:]
    return float(two[1] - two[0])


class Pick(ABC):
    """See the module. `count_name`: under which name of the record's fields accepted differences are counted."""

    count_name: str

    @abstractmethod
    def token(self, logits: NDArray[Any], row: int, column: int) -> int:
        """The token for this row and column, from its logits [vocabulary]."""

    @abstractmethod
    def gap(self, logits: NDArray[Any], row: int, column: int) -> float:
        """How near it is to another one."""

    @abstractmethod
    def words(self, token: int, ours: NDArray[Any], theirs: NDArray[Any], row: int, column: int) -> str:
        """A difference: the original gives `token`, the artifact another one."""


class GreedyPick(Pick):
    """The largest logit."""

    count_name = "near_ties"

    def token(self, logits: NDArray[Any], row: int, column: int) -> int:
        return int(logits.argmax())

    def gap(self, logits: NDArray[Any], row: int, column: int) -> float:
        return top_two_gap(logits)

    def words(self, token: int, ours: NDArray[Any], theirs: NDArray[Any], row: int, column: int) -> str:
        ahead, ours_ahead = self.gap(theirs, row, column), self.gap(ours, row, column)
        return (
            f"the original gives token {token} (ahead of its second choice by {ahead:.3g}), "
            f"the artifact {self.token(ours, row, column)} (ahead by {ours_ahead:.3g})"
        )


class SeededPick(Pick):
    """The draw that the original's loop makes for this row and column: its first one is for the column behind the shortest prompt, of split prompts
    for each row's first new token."""

    count_name = "near_steps"

    def __init__(self, case: Case, rng: Rng) -> None:
        self._sampler = samplers.get(case.sampler)
        self._firsts = [len(row) if case.split else case.start for row in case.prompts]
        self._rng = rng

    def token(self, logits: NDArray[Any], row: int, column: int) -> int:
        if not np.isfinite(logits.max()):
            return -1  # no number, no token
        return self._sampler.next_token(self._sampler.probabilities(logits), self._draw(row, column))

    def gap(self, logits: NDArray[Any], row: int, column: int) -> float:
        return self._sampler.gap(self._sampler.probabilities(logits), self._draw(row, column))

    def words(self, token: int, ours: NDArray[Any], theirs: NDArray[Any], row: int, column: int) -> str:
        distance = self.gap(theirs, row, column)
        return f"the original draws token {token} ({distance:.3g} from another outcome, in logits), the artifact {self.token(ours, row, column)}"

    def _draw(self, row: int, column: int) -> Draw:
        return Draw(column - self._firsts[row], row, len(self._firsts), self._rng)


def pick_of(case: Case, rng: Rng) -> Pick:
    """The case's."""
    return SeededPick(case, rng) if case.sampler else GreedyPick()
