"""The whole zoo x targets x samplers on ragged ids: seeded tokens are those of KerasHub's `generate()`, kept as golden files (tests/golden/zoo)."""

from __future__ import annotations

from typing import Any

import pytest
from kexport import runtime, targets
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows

from tests.golden.zoo_samplers import asked, golden
from tests.zoo import ZOO

PAD = 0
LEAST_DISTINCT = 10  # of the tokens a batch's rows gain: a model that repeats itself proves nothing


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
    assert {sampler: {key: entry["config"][key] for key in entry["config"] if key != "seed"} for sampler, entry in document["samplers"].items()} == asked(name)
    rows = [entry["tokens"] for entry in document["samplers"].values()]
    gained = [[tuple(row[len(prompt) :]) for row, prompt in zip(table, document["prompts"], strict=True)] for table in rows]
    assert all(len({token for row in table for token in row}) >= LEAST_DISTINCT for table in gained)
    assert len({tuple(table) for table in gained}) == len(gained)
