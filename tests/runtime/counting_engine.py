"""An engine without a model: the logits of a row are a fixed function of the tokens it holds. It counts what it is asked for."""

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
