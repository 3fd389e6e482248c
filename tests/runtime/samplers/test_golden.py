"""Seeded draws are KerasHub's, under TensorFlow's CPU kernels and under XLA (recorded by tests/golden/write_sampler_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.base import Draw
from kexport.runtime.samplers.candidates import heap_order
from kexport.runtime.samplers.philox import Stream

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "samplers.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(case, id=f"{case['mode']}-{case['batch_size']}x{case['vocabulary']}-{case['sampler']}-{i}")
    for i, case in enumerate(GOLDEN["cases"])
]


def logits_of(seed: int, batch_size: int, vocabulary: int) -> Any:
    """The logits of the golden file's step `seed`."""
    return (np.random.RandomState(seed).standard_normal((batch_size, vocabulary)) * 2).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_keras_hubs(case: dict[str, Any]) -> None:
    """Every draw of every row is the recorded one, drawn row by row and from the last row to the first."""
    sampler = samplers.get({"class_name": case["sampler"], "config": case["config"]})
    rng = Rng(mode=case["mode"], threads=GOLDEN["threads"])
    for step, expected in enumerate(case["tokens"]):
        probabilities = sampler.probabilities(logits_of(step, case["batch_size"], case["vocabulary"]))
        rows = reversed(range(case["batch_size"]))
        tokens = [sampler.next_token(probabilities[row], Draw(step, row, case["batch_size"], rng)) for row in rows]
        assert tokens[::-1] == expected


def test_draws_are_not_all_alike() -> None:
    """The recorded draws depend on seed, step and row, so that the comparison above can fail."""
    tokens = [token for case in GOLDEN["cases"] if case["sampler"] == "RandomSampler" for row in case["tokens"] for token in row]
    assert len(set(tokens)) > len(tokens) / 4


@pytest.mark.parametrize("case", GOLDEN["orders"])
def test_heap_order_is_tensorflows(case: dict[str, Any]) -> None:
    """The unsorted top k comes in TensorFlow's order."""
    logits = logits_of(case["seed"], 1, case["vocabulary"])[0]
    powers = np.exp(logits - logits.max())
    assert heap_order(powers / powers.sum(), case["count"]).tolist() == case["ids"]


def test_long_and_short_streams_are_one() -> None:
    """Random words do not depend on how many are asked for at once, carries of the counter included."""
    stream = Stream((1, 2), (1 << 64) - 3)
    whole = stream.words(0, 100)
    for start in (0, 1, 5, 9, 13):
        assert stream.words(start, 3).tolist() == whole[start : start + 3].tolist()
        assert stream.words(start, 60).tolist() == whole[start : start + 60].tolist()
    assert stream.skip(2).words(0, 40).tolist() == whole[8:48].tolist()
