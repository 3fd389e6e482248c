"""The whole zoo x targets x samplers on ragged ids: seeded tokens are those of KerasHub's `generate()`, kept as golden files (tests/golden/zoo)."""

from __future__ import annotations

from typing import Any

import pytest
from kexport import runtime, targets
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows

from tests.golden.zoo_samplers import LEAST_DISTINCT, LEAST_DISTINCT_OF_BEAMS, asked, distinct, golden
from tests.zoo import ZOO

PAD = 0
FOUND = ("seed", "temperature")  # what the writer searches


def case_of(document: dict[str, Any]) -> Case:
    """What KerasHub was asked."""
    prompts, encoder = (tuple(map(tuple, document[key])) for key in ("prompts", "encoder"))
    return Case(document["name"], prompts, document["length"], encoder)


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", list(ZOO))
def test_every_sampler_gives_keras_hubs_tokens(name: str, target: str, zoo_outcomes: Any) -> None:
    """Random, top_k, top_p and beams, but what the original refuses, with the seeds of the golden file and without stop ids."""
    document = golden(name)
    case = case_of(document)
    with runtime.load(zoo_outcomes(name)[target].artifact.directory, preprocessor=None) as model:
        form = model.manifest.generation.prompt
        for sampler, entry in document["samplers"].items():
            model.compile(sampler={"class_name": sampler, "config": entry["config"]})
            generated = model.generate(generate_inputs(case, PAD, form), stop_token_ids=None)
            assert generated_rows(case, generated, form).tolist() == entry["tokens"], sampler


@pytest.mark.parametrize("name", list(ZOO))
def test_the_golden_file_could_find_a_difference(name: str) -> None:
    """It holds each sampler that the original runs; rows gain many different tokens, and every sampler goes a way of its own."""
    document = golden(name)
    given = {sampler: without(entry["config"]) for sampler, entry in document["samplers"].items()}
    assert given == {sampler: without(config) for sampler, config in asked(name).items()}
    tables = {sampler: entry["tokens"] for sampler, entry in document["samplers"].items()}
    for sampler, table in tables.items():
        assert distinct(table, document["prompts"]) >= (LEAST_DISTINCT_OF_BEAMS if sampler == "BeamSampler" else LEAST_DISTINCT)
    assert len({str(table) for table in tables.values()}) == len(tables)


def without(config: dict[str, Any]) -> dict[str, Any]:
    """A sampler's config without what the writer searches."""
    return {key: value for key, value in config.items() if key not in FOUND}
