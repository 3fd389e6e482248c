"""`--upstream-fix`: the corrected form of what KerasHub does wrong, proven against its uncached forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport import targets
from kexport.converter.conversion import convert_all
from kexport.runtime.contract.errors import UnsupportedError

from tests.zoo import ZOO

pytestmark = pytest.mark.slow
CAPACITY = 48


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GPT-NeoX with the fix and without it, on every target: target -> (fixed, as it is)."""
    made = []
    for fixed in (True, False):
        converted = convert_all(ZOO["gpt-neox"].build(), "all", tmp_path_factory.mktemp("fix") / "OUT", max_length=CAPACITY, upstream_fix=fixed)
        made.append({outcome.target: outcome for outcome in converted})
    return {target: (made[0][target], made[1][target]) for target in made[0]}


@pytest.mark.parametrize("target", targets.known())
def test_the_fixed_form_is_proven_against_the_uncached_forward(target: str, outcomes: Any) -> None:
    """It gives other tokens than generate(), says so in its certificate, and is told nothing of the original's calls."""
    fixed, stock = outcomes[target]
    assert fixed.error is None and stock.error is None
    parity, other = fixed.artifact.manifest.parity, stock.artifact.manifest.parity
    assert parity.verdict == "proven" and parity.tokens_equal == parity.tokens_compared > 0
    assert [warning.partition(":")[0] for warning in parity.warnings] == ["seeded sampling was not compared"]
    assert "uncached forward" in parity.oracle and fixed.artifact.manifest.generation.upstream_fix in parity.oracle
    assert parity.cases[0].inputs == other.cases[0].inputs and parity.cases[0].expected != other.cases[0].expected
    inputs = [{spec.name for signature in outcome.artifact.manifest.signatures for spec in signature.inputs} for outcome in (fixed, stock)]
    assert "extent" not in inputs[0] and "extent" in inputs[1]


def test_there_must_be_something_to_fix(tmp_path: Path) -> None:
    """A family that generate() runs right has no corrected form."""
    (outcome,) = convert_all(ZOO["llama"].build(), "onnx", tmp_path / "OUT", max_length=CAPACITY, upstream_fix=True)
    assert isinstance(outcome.error, UnsupportedError) and outcome.error.code == "KX242"
