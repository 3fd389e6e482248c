"""Engines without a model: the logits of a row are a fixed function of the tokens it holds, or of all it was ever fed. They count what they are
asked for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from kexport.runtime.engines.base import CacheState, Engine, normal_lengths

VOCABULARY = 40


def logits_of(history: Sequence[int], encoder: Sequence[int] = ()) -> Any:
    """[VOCABULARY] float32, a different spread for every history and encoder prompt."""
    seed = zlib.crc32(repr((list(history), list(encoder))).encode())
    return (np.random.RandomState(seed).standard_normal(VOCABULARY) * 2).astype(np.float32)


class CountingCache(CacheState):
    """The tokens themselves."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.rows: list[list[int]] = [[] for _ in range(batch_size)]
        self.encoder: list[list[int]] = [[] for _ in range(batch_size)]

    def reorder(self, rows: Any) -> None:
        self.rows = [list(self.rows[row]) for row in rows]
        self.encoder = [self.encoder[row] for row in rows]
        self.lengths = self.lengths[np.asarray(rows)]

    def snapshot(self) -> object:
        return [list(row) for row in self.rows]

    def restore(self, snapshot: Any) -> None:
        self.rows = [list(row) for row in snapshot]
        self.lengths = np.array([len(row) for row in self.rows])


class CountingEngine(Engine):
    """`calls`: (tokens fed, rows) of every `extend`."""

    vocabulary_size = VOCABULARY

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def new_cache(self, batch_size: int, capacity: int) -> CountingCache:
        return CountingCache(batch_size, capacity)

    def encode(self, tokens: Any, padding_mask: Any, cache: CacheState) -> None:
        assert isinstance(cache, CountingCache)
        cache.encoder = [row[mask].tolist() for row, mask in zip(tokens, padding_mask, strict=True)]

    def extend(self, cache: CacheState, tokens: Any, lengths: Any = None) -> Any:
        assert isinstance(cache, CountingCache)
        counts = normal_lengths(cache, tokens, lengths)
        self.calls.append((int(counts.sum()), len(counts)))
        for row, count in enumerate(counts):
            cache.rows[row] += tokens[row, :count].tolist()
        cache.lengths += counts
        return np.stack([logits_of(row, encoder) for row, encoder in zip(cache.rows, cache.encoder, strict=True)])

    def close(self) -> None:
        """Nothing is held."""


PADDING = -1  # what a padded token leaves in a state


class RecurrentCache(CountingCache):
    """Beside the tokens a state: all tokens that were ever fed, padding as `PADDING`; going back leaves it as it is."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        super().__init__(batch_size, capacity)
        self.taken: list[list[int]] = [[] for _ in range(batch_size)]

    def step_back(self, lengths: Any) -> None:
        super().step_back(lengths)
        self.rows = [row[:length] for row, length in zip(self.rows, self.lengths, strict=True)]

    def reorder(self, rows: Any) -> None:
        super().reorder(rows)
        self.taken = [list(self.taken[row]) for row in rows]


class RecurrentEngine(CountingEngine):
    """An engine whose model keeps a state, in which padding leaves traces."""

    marks_padding = True

    def new_cache(self, batch_size: int, capacity: int) -> RecurrentCache:
        return RecurrentCache(batch_size, capacity)

    def extend(self, cache: CacheState, tokens: Any, lengths: Any = None) -> Any:
        assert isinstance(cache, RecurrentCache) and lengths is None
        for row, valid in enumerate(self.valid_lengths_of(cache)):
            places = range(cache.lengths[row], cache.lengths[row] + tokens.shape[1])
            cache.taken[row] += [int(token) if place < valid else PADDING for place, token in zip(places, tokens[row], strict=True)]
        super().extend(cache, tokens)
        return np.stack([logits_of(row, taken) for row, taken in zip(cache.rows, cache.taken, strict=True)])
