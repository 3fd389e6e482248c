"""`gap`: how far two logits must come together or part before a seeded sampler picks another token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.base import Draw

VOCABULARY, STEPS = 40, 60
FAR_BELOW = np.float32(30)
SAMPLERS = {
    "random": samplers.RandomSampler(seed=3),
    "random, temperature": samplers.RandomSampler(seed=3, temperature=0.5),
    "top_k": samplers.TopKSampler(k=5, seed=3),
    "top_k, temperature": samplers.TopKSampler(k=5, seed=3, temperature=2.0),
    "top_k of one": samplers.TopKSampler(k=1, seed=3),
    "top_p": samplers.TopPSampler(p=0.8, seed=3),
    "top_p, k": samplers.TopPSampler(p=0.8, k=6, seed=3),
}


def logits_of(step: int) -> Any:
    """The logits of one row at one step."""
    return np.random.default_rng(step).normal(0, 2, VOCABULARY).astype(np.float32)


def pick(sampler: Any, logits: Any, draw: Draw) -> int:
    """The token."""
    return int(sampler.next_token(sampler.probabilities(logits), draw))


@pytest.mark.parametrize("mode", ["tf_cpu", "xla"])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_moves_within_the_gap_change_nothing(name: str, mode: Any) -> None:
    """Every logit up or down by almost half of the gap: at random, and one side of each candidate against the other; the token stays. Where a heap's order
    counts, what is no candidate keeps its place: see `gap_of_order`."""
    sampler = SAMPLERS[name]
    for step in range(STEPS):
        logits, draw = logits_of(step), Draw(step, 1, 3, Rng(mode=mode))
        moved = np.ones(VOCABULARY, np.float32)
        if isinstance(sampler, samplers.TopKSampler):
            moved[np.argsort(-logits)[sampler.k + 1 :]] = 0
            logits = np.where(moved, logits, logits - FAR_BELOW)
        token = pick(sampler, logits, draw)
        reach = np.float32(0.49 * min(sampler.gap(sampler.probabilities(logits), draw), 5))
        generator = np.random.default_rng(1000 + step)
        signs = [*generator.choice([-1, 1], (20, VOCABULARY)), *(np.where(logits >= bar, sign, -sign) for bar in logits for sign in (-1, 1))]
        assert {pick(sampler, logits + reach * moved * sign, draw) for sign in signs} == {token}


def test_moves_beyond_the_gap_of_a_draw_change_it() -> None:
    """The gap is no smaller than it must be: all candidates up to one against the others, by a little more than half of it, give another token."""
    sampler = SAMPLERS["random"]
    for step in range(STEPS):
        logits, draw = logits_of(step), Draw(step, 0, 1, Rng())
        reach = np.float32(0.51 * sampler.gap(sampler.probabilities(logits), draw))
        sides = [sign * np.where(np.arange(VOCABULARY) <= last, 1, -1) for last in range(VOCABULARY) for sign in (-1, 1)]
        assert len({pick(sampler, logits + reach * side, draw) for side in sides}) > 1


def test_the_order_of_candidates_has_a_gap_of_its_own() -> None:
    """Of two candidates that are all but equal, rounding decides which one stands first in the list that is drawn from."""
    logits = logits_of(0)
    first, second = np.argsort(-logits)[:2]
    logits[second] = logits[first] - np.float32(1e-4)
    draw = Draw(0, 0, 1, Rng())
    for name in ("top_k", "top_p"):
        assert SAMPLERS[name].gap(SAMPLERS[name].probabilities(logits), draw) <= 1.1e-4


def test_greedy_and_beams_have_none() -> None:
    """A greedy choice is judged by its logits, beams by no single row."""
    with pytest.raises(NotImplementedError):
        samplers.BeamSampler(num_beams=2).gap(np.full(4, 0.25, np.float32), Draw(0, 0, 1, Rng()))
