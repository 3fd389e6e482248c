"""Decoders that nobody thought of, in orders of calls that nobody thought of: always the interpreter's logits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.targets.onnx.test_random_decoders import PROMPTS, toys
from tests.targets.onnx.toys import CAPACITY, Toy, decoder
from tests.targets.openvino.runs import compare, last_of, write

BOUND = 2e-5
ROWS = 3
counts = st.tuples(*[st.integers(0, 3)] * ROWS).filter(any)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(toy=toys(), prompts=st.sampled_from(PROMPTS))
def test_any_decoder_gives_the_interpreters_logits(toy: Toy, prompts: tuple[int, ...]) -> None:
    """Rotation, masks, packing, caches and head grouping may be combined freely."""
    with tempfile.TemporaryDirectory() as directory:
        assert compare(write(Path(directory), decoder(toy)), prompts, steps=3) < BOUND


@settings(max_examples=25, deadline=None, derandomize=True)
@given(calls=st.lists(st.one_of(counts, st.permutations(range(ROWS)), st.floats(0, 1)), min_size=2, max_size=8))
def test_any_order_of_calls_gives_every_rows_own_logits(calls: list[object]) -> None:
    """Ragged chunks, idle rows, reorders (a permutation) and rewinds (to a share of what each row holds) in any order."""
    with tempfile.TemporaryDirectory() as directory:
        files = write(Path(directory), decoder(Toy(windows=(2, None), layers=2)))
        history: list[list[int]] = [[] for _ in range(ROWS)]
        rng = np.random.default_rng(1)
        with files.open() as engine:
            cache = engine.new_cache(ROWS, CAPACITY)
            for call in calls:
                if isinstance(call, list):
                    cache.reorder(call)
                    history = [list(history[row]) for row in call]
                elif isinstance(call, float):
                    history = [row[: round(call * len(row))] for row in history]
                    cache.rewind([len(row) for row in history])
                else:
                    new = np.array(call)
                    tokens = rng.integers(0, engine.vocabulary_size, (ROWS, new.max()))
                    got = engine.extend(cache, tokens, new)
                    for row in np.flatnonzero(new):
                        history[row] += tokens[row, : new[row]].tolist()
                        length = np.array([len(history[row])])
                        want = last_of(files.reference(1).extend(np.array([history[row]]), length), length)[0]
                        assert np.abs(got[row] - want).max() < BOUND * want.std()
