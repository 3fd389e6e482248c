"""The whole zoo x targets x samplers on ragged ids, and every class x targets x samplers on one text and on several: tokens and texts are those of KerasHub's
`generate()` with the same seeds, kept as golden files (tests/golden/zoo)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kexport import runtime, targets
from kexport.converter.families import FAMILIES
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows

from tests.golden.zoo_samplers import SAMPLERS, UNFIT, asked, considered, distinct, golden, least_distinct
from tests.text_zoo import SPEAKING, class_of
from tests.zoo import ZOO

PAD = 0
FOUND = ("seed", "temperature", "num_beams", "k")  # what the writer searches


def case_of(document: dict[str, Any]) -> Case:
    """What KerasHub was asked."""
    prompts, encoder = (tuple(map(tuple, document[key])) for key in ("prompts", "encoder"))
    return Case(document["name"], prompts, document["length"], encoder)


def compiled(model: Any, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samplers' names and entries; before each the model is compiled with a new one, so that every seed starts afresh."""
    for sampler, entry in document["samplers"].items():
        model.compile(sampler={"class_name": sampler, "config": entry["config"]})
        yield sampler, entry


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", list(ZOO))
def test_every_sampler_gives_keras_hubs_tokens(name: str, target: str, zoo_outcomes: Any) -> None:
    """All samplers, but what the original refuses, with the seeds of the golden file and without stop ids; contrastive search where there are hidden states."""
    document = golden(name)
    case = case_of(document)
    with runtime.load(zoo_outcomes(name)[target].artifact.directory, preprocessor=None) as model:
        form = model.manifest.generation.prompt
        for sampler, entry in compiled(model, document):
            generated = model.generate(generate_inputs(case, PAD, form), stop_token_ids=None)
            assert generated_rows(case, generated, form).tolist() == entry["tokens"], sampler


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.known())
@pytest.mark.parametrize("name", SPEAKING)
def test_every_sampler_gives_keras_hubs_texts(name: str, target: str, zoo_outcomes: Any) -> None:
    """The same samplers and seeds: a text for a text, a list for a list of texts of different lengths, up to the original's own stop ids."""
    document = golden(name)
    texts, length = document["texts"], document["text_length"]
    with runtime.load(zoo_outcomes(name)[target].artifact.directory) as model:
        for sampler, entry in compiled(model, document):
            assert model.generate(texts[0], max_length=length) == entry["text"], sampler
        for sampler, entry in compiled(model, document):
            assert model.generate(texts, max_length=length) == entry["several"], sampler


@dataclass(frozen=True)
class Kind:
    """The records of a model's tokenizer and of how it is fed."""

    tokenizer: str
    schedule: str
    prompt: str = "whole"


KINDS = {
    "gpt2": Kind("tokenizers", "rows"),
    "llama": Kind("tokenizers", "rows"),
    "t5": Kind("sentencepiece", "rows"),
    "qwen3.5": Kind("tokenizers", "lock_step"),
    "rwkv7": Kind("longest_match", "rows", "split"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_tokenizer_and_of_feeding_is_among_them(name: str, zoo_outcomes: Any) -> None:
    """What stands for each kind is of that kind."""
    manifest = zoo_outcomes(name)["onnx"].artifact.manifest
    assert Kind(manifest.tokenizer.kind, manifest.generation.schedule, manifest.generation.prompt) == KINDS[name]


def test_every_class_beyond_the_seed_families_speaks() -> None:
    """One model of each class has texts to compare, and contrastive search."""
    assert {ZOO[name].family for name in SPEAKING} == {variant.family for variant in ZOO.values()}
    assert {class_of(name) for name in SPEAKING} == {class_of(name) for name in ZOO}
    assert {family.name for family in FAMILIES} - {ZOO[name].family for name in SPEAKING} == {"bart", "bloom", "gemma", "gemma2", "mistral"}
    assert all(set(SAMPLERS) == set(considered(name)) | {sampler for unfit, sampler in UNFIT if unfit == name} for name in SPEAKING)


@pytest.mark.parametrize("name", list(ZOO))
def test_the_golden_file_could_find_a_difference(name: str) -> None:
    """It holds each sampler that the original runs; rows gain many different tokens, and every sampler goes a way of its own."""
    document = golden(name)
    given = {sampler: without(entry["config"]) for sampler, entry in document["samplers"].items()}
    assert given == {sampler: without(config) for sampler, config in asked(name).items()}
    tables = {sampler: entry["tokens"] for sampler, entry in document["samplers"].items()}
    for sampler, table in tables.items():
        assert distinct(table, document["prompts"]) >= least_distinct(sampler)
    assert len({str(table) for table in tables.values()}) == len(tables)


@pytest.mark.parametrize("name", SPEAKING)
def test_the_golden_texts_could_find_a_difference(name: str) -> None:
    """Answers say something of their own (one may stop at once), and every sampler goes a way of its own. (Of one text the best beam may be the greedy one.)"""
    document = golden(name)
    answers = [[entry["text"], *entry["several"]] for entry in document["samplers"].values()]
    for row in answers:
        assert len(set(row[1:])) == len(document["texts"])
        assert sum(bool(answer) and answer != text for answer, text in zip(row, [document["texts"][0], *document["texts"]], strict=True)) >= len(document["texts"])
    assert len({tuple(row) for row in answers}) == len(document["samplers"])


def without(config: dict[str, Any]) -> dict[str, Any]:
    """A sampler's config without what the writer searches."""
    return {key: value for key, value in config.items() if key not in FOUND}
