"""Captured mixtures of experts: every family's layers are recognised, and give what the plain graph gives."""

from __future__ import annotations

import numpy as np
import pytest

from tests.zoo import ZOO

pytestmark = pytest.mark.slow
FAMILIES = [name for name, variant in ZOO.items() if variant.mixtures]
BOUND = 1e-5  # of the largest number
TOKENS = 6


def test_all_families_with_experts_are_here() -> None:
    """Six of them."""
    assert {ZOO[name].family for name in FAMILIES} == {"mixtral", "qwen_moe", "qwen3_moe", "qwen3_5_moe", "gpt_oss", "gemma4"}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_is_recognised(name: str) -> None:
    """One node a layer, nothing left of the choice by ones and zeros, no note; taken apart again it computes every expert with the same result."""
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.live import LiveWeights
    from kexport.graphs.interpreter import new_caches, run
    from kexport.graphs.passes.decompose import DECOMPOSITIONS, decompose

    task = ZOO[name].build()
    captured = capture(task)
    graph = captured.graphs["extend"]
    nodes = list(graph.of_op("experts"))
    assert len(nodes) == ZOO[name].mixtures == len({node.layer for node in nodes})
    assert not list(graph.of_op("one_hot")) and not [note for note in captured.notes if "expert" in note]
    plain = graph.copy()
    decompose(plain, keep=set(DECOMPOSITIONS) - {"experts"})
    assert not list(plain.of_op("experts"))
    numbers = np.random.default_rng(1)
    feeds = {
        "token_ids": numbers.integers(1, 90, (2, TOKENS)).astype(np.int32),
        "positions": np.tile(np.arange(TOKENS, dtype=np.int32), (2, 1)),
        "valid_lengths": np.full(2, TOKENS, np.int32),
    }
    results = []
    for one in (graph, plain):
        given = {key: feeds[key] for key in one.inputs if key in feeds}
        results.append(run(one, given, LiveWeights(task.variables), new_caches(one, 2, TOKENS))["logits"])
    assert np.abs(results[0] - results[1]).max() < BOUND * np.abs(results[1]).max()
