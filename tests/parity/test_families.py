"""The families beyond the seed families, on every target: proven by the parity gate, with many distinct tokens and every attention recognised."""

from __future__ import annotations

from typing import Any

import pytest
from kexport import targets
from kexport.converter.conversion import convert_all
from kexport.converter.families import FAMILIES

from tests.parity.support import check_cell
from tests.seed_models import MODELS
from tests.zoo import ZOO

pytestmark = pytest.mark.slow
CAPACITY = 48
LEAST_DISTINCT = 15  # of a row's last 30 tokens


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """variant -> its outcomes by target, converted once."""
    made: dict[str, dict[str, Any]] = {}

    def get(name: str) -> dict[str, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("family")
            made[name] = {one.target: one for one in convert_all(ZOO[name].build(), "all", folder, max_length=CAPACITY)}
        return made[name]

    return get


@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", list(ZOO))
def test_every_variant_is_proven(name: str, target: str, outcomes: Any) -> None:
    """All tokens equal to KerasHub's generate(), no near tie, no warning but of an original that contradicts itself, each layer's attention in the graph as
    attention, fused where the target can; the page of support says the same."""
    outcome = outcomes(name)[target]
    assert outcome.error is None
    manifest = outcome.artifact.manifest
    parity = manifest.parity
    assert parity.verdict == "proven" and parity.near_ties == 0
    assert [warning.partition(" differ by ")[0] for warning in parity.warnings] == ["the original's cached and uncached forward"] * ZOO[name].contradicts
    assert parity.tokens_equal == parity.tokens_compared > 0
    long = [row for case in parity.cases for row in case.expected if len(row) == CAPACITY]
    assert long and min(len(set(row[-30:])) for row in long) >= LEAST_DISTINCT
    assert len(manifest.fusions) == ZOO[name].layers
    assert len(manifest.experts) == ZOO[name].mixtures
    check_cell(name, ZOO[name].family, manifest)


def test_the_list_says_what_is_tested() -> None:
    """`kexport list` shows exactly the families that are tested here or as seed families."""
    tested = {variant.family for variant in ZOO.values()} | {"gemma2" if "gemma2" in name else model.family for name, model in MODELS.items()}
    assert {family.name for family in FAMILIES} == tested
    assert all(set(family.targets) == set(targets.known()) for family in FAMILIES)
