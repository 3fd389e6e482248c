"""The families beyond the seed families, on every target: proven by the parity gate, with many distinct tokens and every attention recognised."""

from __future__ import annotations

from typing import Any

import pytest
from kexport import targets
from kexport.converter.families import FAMILIES

from tests.golden.zoo_samplers import distinct
from tests.parity.conftest import CAPACITY
from tests.parity.support import check_cell
from tests.seed_models import MODELS
from tests.text_zoo import SPEAKING
from tests.zoo import ZOO

pytestmark = pytest.mark.slow
LEAST_DISTINCT = 15  # of the tokens that the rows of the ragged batch gain, some 80


@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", list(ZOO))
def test_every_variant_is_proven(name: str, target: str, zoo_outcomes: Any) -> None:
    """All tokens equal to KerasHub's generate(), greedy and with both seeded samplers, no near tie, no warning but of an original that contradicts itself, each layer's attention in the graph as
    attention, fused where the target can; the page of support says the same."""
    outcome = zoo_outcomes(name)[target]
    assert outcome.error is None
    manifest = outcome.artifact.manifest
    parity = manifest.parity
    assert parity.verdict == "proven" and parity.near_ties == parity.near_steps == 0
    assert [case.sampler["class_name"] for case in parity.cases if case.sampler] == ["TopKSampler", "RandomSampler"]
    assert [warning.partition(" differ by ")[0] for warning in parity.warnings] == ["the original's cached and uncached forward"] * ZOO[name].contradicts
    assert parity.tokens_equal == parity.tokens_compared > 0
    batch = next(case for case in parity.cases if case.name == "ragged batch")
    assert distinct(batch.expected, batch.inputs["prompts"]) >= LEAST_DISTINCT
    assert any(len(row) == CAPACITY for case in parity.cases for row in case.expected)
    assert len(manifest.fusions) == ZOO[name].layers
    assert len(manifest.experts) == ZOO[name].mixtures
    check_cell(name, ZOO[name].family, manifest)


@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", SPEAKING)
def test_texts_are_the_originals(name: str, target: str, zoo_outcomes: Any) -> None:
    """The gate compared texts with KerasHub's generate() on strings, and the ids with them; the answers say something."""
    manifest = zoo_outcomes(name)[target].artifact.manifest
    assert manifest.tokenizer is not None
    (case,) = [case for case in manifest.parity.cases if case.texts]
    assert case.tokens_equal == case.tokens_compared == len(case.texts)
    assert any(answer != prompt for prompt, answer in zip(case.texts, case.expected_texts, strict=True))


def test_the_list_says_what_is_tested() -> None:
    """`kexport list` shows exactly the families that are tested here or as seed families."""
    tested = {variant.family for variant in ZOO.values()} | {"gemma2" if "gemma2" in name else model.family for name, model in MODELS.items()}
    assert {family.name for family in FAMILIES} == tested
    assert all(set(family.targets) == set(targets.known()) for family in FAMILIES)
