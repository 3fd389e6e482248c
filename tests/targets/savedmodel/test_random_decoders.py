"""Decoders that nobody thought of: every combination of features gives the interpreter's logits, through the engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kexport.runtime.engines.base import open_engine

from tests.targets.onnx.test_random_decoders import PROMPTS, toys
from tests.targets.onnx.toys import CAPACITY, Reference, Toy, decoder, source_of

pytestmark = pytest.mark.slow
BOUND = 2e-5
STEPS = 3


@settings(max_examples=12, deadline=None, derandomize=True)
@given(toy=toys(), prompts=st.sampled_from(PROMPTS))
def test_any_decoder_gives_the_interpreters_logits(toy: Toy, prompts: tuple[int, ...]) -> None:
    """A ragged prefill and single steps, whatever is combined."""
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(toy)
    source, rng, counts = source_of(graph), np.random.default_rng(3), np.array(prompts)
    reference = Reference(graph, source, len(prompts))
    with tempfile.TemporaryDirectory() as directory:
        manifest = emit(Path(directory), {"extend": graph}, source, capacity=CAPACITY)
        with open_engine(Path(directory), manifest) as engine:
            cache = engine.new_cache(len(prompts), CAPACITY)
            for step in range(1 + STEPS):
                taken = counts if step == 0 else np.ones_like(counts)
                tokens = rng.integers(0, toy.vocabulary, (len(prompts), taken.max()))
                got, want = engine.extend(cache, tokens, taken), reference.extend(tokens, taken)[:, -1]
                assert np.abs(got - want).max() < BOUND * want.std()
