"""Rounding explains a difference only where original and artifact both stand near the captured graph's exact result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.converter.parity.attribution import reference_logits, rounding_explains, widened
from kexport.converter.parity.cases import Case

from tests.seed_models import load_golden


@pytest.fixture(scope="module")
def known() -> Any:
    """A golden model's first row: its case, tokens, exact logits, and how far float32 is from them."""
    golden = load_golden("mistral")
    row = np.array(golden.tokens[0][:12])
    case = Case("row", (tuple(row[:5].tolist()),), len(row))
    logits = reference_logits(golden.graphs, golden.weights, case, 0, row, 0)
    exact = reference_logits({name: widened(graph) for name, graph in golden.graphs.items()}, golden.weights, case, 0, row, 0)
    return golden, case, row[None], exact, float(np.abs(logits - exact).max())


def explained(known: Any, oracle_off: float, artifact_off: float) -> str:
    """The sentence for an original and an artifact that far (in float32's own rounding) from the exact result."""
    golden, case, tokens, exact, rounding = known
    whole = np.zeros((1, tokens.shape[1], exact.shape[1]))
    start = len(case.prompts[0]) - 1
    both = []
    for off in (oracle_off, artifact_off):
        logits = whole.copy()
        logits[0, start : tokens.shape[1] - 1] = exact + off * rounding
        both.append(logits)
    return rounding_explains(golden.graphs, golden.weights, case, 0, tokens, both[0], both[1], 0)


def test_two_sides_within_rounding_are_explained(known: Any) -> None:
    """With both distances in the sentence."""
    assert "amplifies rounding" in explained(known, 2.0, -3.0)


@pytest.mark.parametrize(("oracle_off", "artifact_off"), [(1.0, 5.0), (5.0, 1.0), (1000.0, 0.5), (1000.0, 999.0)])
def test_one_side_far_from_the_graph_is_not(known: Any, oracle_off: float, artifact_off: float) -> None:
    """An artifact that is wrong; and an original that is far because the captured graph is another function."""
    assert explained(known, oracle_off, artifact_off) == ""
