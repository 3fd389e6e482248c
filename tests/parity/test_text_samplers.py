"""Seeded samplers on one text and on a list of texts: KerasHub's texts, for each kind of tokenizer and each way of feeding the model, on every target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kexport import runtime, targets
from kexport.converter.conversion import convert_all
from kexport.runtime.contract.manifest_io import read_manifest

from tests.converter.family_tokenizers import preprocessor
from tests.converter.printable_rwkv7 import printable_rwkv7
from tests.zoo import ZOO

pytestmark = pytest.mark.slow
CAPACITY = 64
LENGTH = 28
TEXTS = ["The quick brown fox", "In 1984,", "I want to say that this is, after all,"]
SAMPLERS = {"RandomSampler": {"seed": 21, "temperature": 0.8}, "TopKSampler": {"seed": 12}, "TopPSampler": {"seed": 13, "p": 0.8}}


@dataclass(frozen=True)
class Kind:
    """What a model of the zoo stands for here: the record of its tokenizer and of how it is fed."""

    tokenizer: str
    schedule: str
    prompt: str = "whole"
    build: Callable[[], Any] | None = None


KINDS = {
    "gpt2": Kind("tokenizers", "rows"),
    "llama": Kind("tokenizers", "rows"),
    "t5": Kind("sentencepiece", "rows"),
    "qwen3.5": Kind("tokenizers", "lock_step"),
    "rwkv7": Kind("longest_match", "rows", "split", printable_rwkv7),
}


def with_tokenizer(name: str) -> Any:
    """The zoo's model over the vocabulary of a trained tokenizer."""
    variant = ZOO[name]
    text = preprocessor(f"{variant.prefix}{variant.task}")
    task = replace(variant, config={**variant.config, "vocabulary_size": text.tokenizer.vocabulary_size()}).build()
    task.preprocessor = text
    return task


def answers(task: Any) -> dict[str, tuple[str, list[str]]]:
    """What the original, or an artifact, makes of one text and of several; each sampler is KerasHub's own object, a new one for each call."""
    import keras_hub

    found = {}
    for name, config in SAMPLERS.items():
        task.compile(sampler=getattr(keras_hub.samplers, name)(**config))
        one = task.generate(TEXTS[0], max_length=LENGTH)
        task.compile(sampler=getattr(keras_hub.samplers, name)(**config))
        found[name] = one, task.generate(TEXTS, max_length=LENGTH)
    return found


@pytest.mark.parametrize("name", list(KINDS))
def test_texts_are_keras_hubs(name: str, tmp_path: Path) -> None:
    """The same seed, the same texts, one and several, on all four targets; every sampler goes a way of its own."""
    kind = KINDS[name]
    task = kind.build() if kind.build is not None else with_tokenizer(name)
    theirs = answers(task)
    assert len({texts for texts, _ in theirs.values()}) == len(SAMPLERS)
    assert all(one != TEXTS[0] and any(text not in TEXTS for text in several) for one, several in theirs.values())
    outcomes = convert_all(task, "all", tmp_path, max_length=CAPACITY, verify="none")
    assert {outcome.target: outcome.error for outcome in outcomes} == dict.fromkeys(targets.known())
    for outcome in outcomes:
        manifest = read_manifest(outcome.artifact.directory)
        assert (manifest.tokenizer.kind, manifest.generation.schedule, manifest.generation.prompt) == (kind.tokenizer, kind.schedule, kind.prompt)
        with runtime.load(outcome.artifact.directory, allow_unverified=True) as model:
            assert answers(model) == theirs, outcome.target
