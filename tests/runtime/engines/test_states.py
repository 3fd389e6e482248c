"""Engines carry the states of recurrent layers: zeros at first, through pieces, ragged rows, reorders and snapshots, and never padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.engines.base import Engine

from tests.targets.recurrent import CAPACITY, CHUNK, GRAPHS, TARGETS, VOCABULARY, Files, Rows, write

BOUND = 2e-5
EACH = [
    pytest.param((target, name), id=f"{target}, {name}", marks=[pytest.mark.slow] if target == "savedmodel" else [])
    for target in TARGETS
    for name in GRAPHS
]
Opened = tuple[Engine, Callable[[int], Rows]]


@pytest.fixture(scope="module", params=EACH)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """An engine on a toy, and the reference for a number of rows."""
    files: Files = write(*request.param, tmp_path_factory.mktemp("toy"))
    with files.open() as engine:
        yield engine, lambda batch: Rows(files, batch)


def tokens_of(batch: int, width: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, width))


def check(got: Any, want: Any, rows: Any = slice(None)) -> None:
    """Logits of these rows are the reference's."""
    assert np.abs(got[rows] - want[rows]).max() < BOUND * want[rows].std()


def test_whole_in_pieces_and_longer_than_a_chunk(opened: Opened) -> None:
    """However a prompt is cut, its logits are those of one token after the other; what a call cannot take is cut by the engine."""
    engine, rows = opened
    tokens = tokens_of(1, 2 * CHUNK + 5)
    want = rows(1).extend(tokens, [tokens.shape[1]])
    for pieces in ((tokens.shape[1],), (1, 2, tokens.shape[1] - 3), (CHUNK, 1, CHUNK, 4), (1,) * tokens.shape[1]):
        cache, start = engine.new_cache(1, CAPACITY), 0
        for size in pieces:
            got = engine.extend(cache, tokens[:, start : start + size])
            start += size
        check(got, want)
        assert cache.lengths.tolist() == [tokens.shape[1]]


def test_ragged_rows(opened: Opened) -> None:
    """Ragged prompts, ragged pieces over a past, rows without tokens and steps: each row is as if it were alone."""
    engine, rows = opened
    cache, reference = engine.new_cache(3, CAPACITY), rows(3)
    for step, counts in enumerate(((5, 2, 9), (1, 1, 1), (0, 4, 1), (1, 0, 1), (1, 1, 0), (3, 3, 3), (0, 0, 0), (1, 1, 1))):
        tokens = tokens_of(3, max(*counts, 1), seed=step)
        got, want = engine.extend(cache, tokens, np.array(counts)), reference.extend(tokens, counts)
        running = np.flatnonzero(counts)
        if running.size:
            check(got, want, running)
        assert cache.lengths.tolist() == reference.lengths


def test_a_row_that_starts_late(opened: Opened) -> None:
    """A row that has no token in the first call starts from zeros, not from what the call made of padding."""
    engine, rows = opened
    cache, reference = engine.new_cache(2, CAPACITY), rows(2)
    for step, counts in enumerate(((0, 4), (0, 1), (3, 1), (1, 1))):
        tokens = tokens_of(2, max(counts), seed=10 + step)
        got, want = engine.extend(cache, tokens, np.array(counts)), reference.extend(tokens, counts)
        check(got, want, np.flatnonzero(counts))


def test_reorder(opened: Opened) -> None:
    """Beams: rows continue others, several the same one; fewer rows and more rows go on as the rows they continue."""
    engine, rows = opened
    cache, reference = engine.new_cache(3, CAPACITY), rows(3)
    tokens = tokens_of(3, 7)
    engine.extend(cache, tokens, np.array([7, 4, 2]))
    reference.extend(tokens, [7, 4, 2])
    for step, order in enumerate(([2, 0, 0], [1, 0, 2], [2], [0, 0], [1, 0, 1, 0])):
        cache.reorder(order)
        reference.reorder(order)
        for width in (1, 3):
            tokens = tokens_of(len(order), width, seed=20 + step + width)
            check(engine.extend(cache, tokens), reference.extend(tokens, [width] * len(order)))


def test_snapshot_and_restore(opened: Opened) -> None:
    """After `restore` the same tokens give the same logits, though the states went on and the number of rows changed."""
    engine, rows = opened
    cache, reference = engine.new_cache(2, CAPACITY), rows(2)
    tokens, following = tokens_of(2, 5), tokens_of(2, 3, seed=2)
    engine.extend(cache, tokens, np.array([5, 3]))
    snapshot = cache.snapshot()
    reference.extend(tokens, [5, 3])
    want = reference.extend(following, [3, 3])
    for change in (lambda: None, lambda: cache.reorder([1]), lambda: cache.reorder([1, 0, 1])):
        check(engine.extend(cache, following), want)
        change()
        engine.extend(cache, tokens_of(cache.batch_size, 1, seed=4))
        cache.restore(snapshot)
    check(engine.extend(cache, following), want)


def test_rewinding_is_refused(opened: Opened) -> None:
    """States hold all tokens in one; to stay where one is, is no rewind."""
    engine, rows = opened
    cache, reference = engine.new_cache(1, CAPACITY), rows(1)
    tokens = tokens_of(1, 4)
    engine.extend(cache, tokens)
    reference.extend(tokens, [4])
    with pytest.raises(UnsupportedError, match="recurrent layers") as caught:
        cache.rewind([2])
    assert caught.value.code == "KX561"
    with pytest.raises(InvalidInputError, match="cannot rewind"):
        cache.rewind([5])
    cache.rewind([4])
    check(engine.extend(cache, tokens[:, :1]), reference.extend(tokens[:, :1], [1]))


def test_caches_are_apart(opened: Opened) -> None:
    """Two conversations over one engine do not see each other's states; a new one starts from nothing."""
    engine, rows = opened
    first, second = engine.new_cache(1, CAPACITY), engine.new_cache(1, CAPACITY)
    references = rows(1), rows(1)
    for step in range(4):
        for cache, reference, seed in zip((first, second), references, (30, 60), strict=True):
            tokens = tokens_of(1, 1 + step, seed=seed + step)
            check(engine.extend(cache, tokens), reference.extend(tokens, [1 + step]))
