"""Families x targets x {single, ragged batch, full cache, stop in the middle, prompt in pieces}: tokens equal to KerasHub and to each other.

Each family is captured once and written for every target; the parity gate runs the five kinds of case on the written files, and the
golden batch of 64 new tokens a row is generated on each target on top. Differences in logits are printed as one table.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
from kexport import runtime, targets
from kexport.converter.conversion import convert_all

from tests.converter.test_convert import ragged_batch
from tests.parity.support import check_cell
from tests.seed_models import MODELS, load_golden

pytestmark = pytest.mark.slow
FAMILIES = ("mistral", "gemma", "gemma2", "bloom", "bart")
CASES = {"ragged batch", "one row", "prompt in pieces", "full cache"}
CAPACITY = 96


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """family -> target -> artifact, each family converted once for all targets."""

    @functools.cache
    def get(family: str) -> dict[str, Any]:
        from tests.stock_models import save_preset

        folder = tmp_path_factory.mktemp(family)
        save_preset(MODELS[family], folder / "preset")
        results = convert_all(folder / "preset", "all", folder / "out", max_length=CAPACITY)
        assert {result.target: result.error for result in results} == dict.fromkeys(targets.known())
        return {result.target: result.artifact for result in results}

    return get


@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_is_proven(family: str, target: str, outcomes: Any) -> None:
    """The gate's cases are all there, all tokens are equal, and there is no near tie; the page of support says the same."""
    manifest = outcomes(family)[target].manifest
    check_cell(f"{family} (seed)", family, manifest)
    parity = manifest.parity
    assert parity.verdict == "proven" and parity.near_ties == 0 and parity.warnings == ()
    assert parity.tokens_equal == parity.tokens_compared > 0
    assert {case.name for case in parity.cases} >= CASES
    stops = [case for case in parity.cases if case.stop_token_ids]
    assert len(stops) == 1 and stops[0].name == "stop in the middle"


@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_gives_the_golden_tokens(family: str, target: str, outcomes: Any) -> None:
    """64 greedy tokens of a ragged batch of three, without stop ids and stopped in the middle, and each row alone."""
    golden = load_golden(family)
    key = "decoder_token_ids" if family == "bart" else "token_ids"
    with runtime.load(outcomes(family)[target].directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        batch = ragged_batch(family)
        assert model.generate(batch, stop_token_ids=None)[key].tolist() == golden.tokens
        assert model.generate(batch, stop_token_ids=golden.stop_token_ids)[key].tolist() == golden.stop_tokens
        for row in range(len(golden.tokens)):
            alone = {name: array[row : row + 1] for name, array in batch.items()}
            assert model.generate(alone, stop_token_ids=None)[key].tolist() == [golden.tokens[row]]


def test_the_table_of_logit_differences(outcomes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for whoever reads the log; each number is in the artifact's certificate, too."""
    rows = [f"{'family':10}" + "".join(f"{target:>12}" for target in targets.known())]
    for family in FAMILIES:
        differences = [outcomes(family)[target].manifest.parity.max_logit_difference["decode"] for target in targets.known()]
        assert all(0 < difference < 1e-2 for difference in differences)
        rows.append(f"{family:10}" + "".join(f"{difference:12.2g}" for difference in differences))
    with capsys.disabled():
        sys.stdout.write("\nlargest logit difference to KerasHub\n" + "\n".join(rows) + "\n")
    assert all(Path(outcomes(family)[target].directory, "kexport.json").exists() for family in FAMILIES for target in targets.known())
