"""A model with states and caches beyond one chunk of its recurrence: proven, every sampler, texts, streams and an adapter, on every target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime, targets
from kexport.converter.conversion import convert_all

from tests.parity.test_samplers import SAMPLERS, keras_sampler, ragged
from tests.zoo import ZOO

pytestmark = pytest.mark.slow
CAPACITY = 150  # more than two chunks of 64 tokens: a buffer goes in pieces
LENGTH = 80
PROMPT_LENGTHS = (67, 3, 30)
TEXTS = ["The quick brown fox", "In 1984,", "I want to say that this is, after all,"]
TEXT_LENGTH = 28
LEAST_DISTINCT = 15  # of the tokens a batch's rows gain


@dataclasses.dataclass
class Room:
    """The original and its artifacts by target. `answers`: what the original gave, by sampler."""

    task: Any
    preprocessor: Any
    outcomes: dict[str, Any]
    answers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """Ragged ids and their mask."""
        ids, mask = ragged(PROMPT_LENGTHS, LENGTH)
        return {"token_ids": ids, "padding_mask": mask}

    def original(self, sampler: str) -> dict[str, Any]:
        """Ids and texts; a new sampler object each time, so that every seed starts afresh."""
        if sampler not in self.answers:
            self.answers[sampler] = {
                "ids": self._ask(sampler, None, self.inputs(), stop_token_ids=None)["token_ids"],
                "texts": self._ask(sampler, self.preprocessor, TEXTS, max_length=TEXT_LENGTH),
                "text": self._ask(sampler, self.preprocessor, TEXTS[0], max_length=TEXT_LENGTH),
            }
        return self.answers[sampler]

    def _ask(self, sampler: str, preprocessor: Any, inputs: Any, **arguments: Any) -> Any:
        self.task.preprocessor = preprocessor
        self.task.compile(sampler=keras_sampler(sampler))
        return self.task.generate(inputs, **arguments)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Made once, with a tokenizer."""
    import keras_hub

    from tests.converter.tiny_models import byte_pair

    models, variant = keras_hub.models, ZOO["qwen3.5"]
    tokenizer = models.Qwen3_5Tokenizer(**byte_pair(["<|im_end|>", "<|endoftext|>", "<|im_start|>"]), has_vision_tokens=False)
    text = models.Qwen3_5CausalLMPreprocessor(tokenizer, sequence_length=TEXT_LENGTH)
    task = dataclasses.replace(variant, config={**variant.config, "vocabulary_size": tokenizer.vocabulary_size()}).build()
    task.preprocessor = text
    folder = tmp_path_factory.mktemp("hybrid")
    outcomes = {one.target: one for one in convert_all(task, "all", folder, max_length=CAPACITY, signatures=("hidden_states",))}
    return Room(task, text, outcomes)


@pytest.mark.parametrize("target", targets.known())
def test_long_rows_are_proven(target: str, room: Room) -> None:
    """A full cache of more than two chunks, the buffer in pieces, texts, and the hidden states of the steps; nothing left out."""
    outcome = room.outcomes[target]
    assert outcome.error is None
    parity = outcome.artifact.manifest.parity
    assert (parity.verdict, parity.near_ties, parity.near_steps) == ("proven", 0, 0)
    (warning,) = parity.warnings
    assert warning.startswith("the original's cached and uncached forward differ")
    seeded = {"ragged batch, top_k seeded", "one row, random seeded"}
    assert {case.name for case in parity.cases} == {"ragged batch", "one row", "buffer in pieces", "full cache", "stop in the middle", "text", *seeded}
    assert "hidden_states" in parity.max_logit_difference


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("target", targets.known())
def test_samplers_texts_and_streams_are_keras_hubs(target: str, sampler: str, room: Room) -> None:
    """Seeded tokens of a ragged batch, a list of texts, and one text in pieces."""
    want, place = room.original(sampler), room.outcomes[target].artifact.directory
    with runtime.load(place, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler=keras_sampler(sampler))
        assert model.generate(room.inputs(), stop_token_ids=None)["token_ids"].tolist() == np.asarray(want["ids"]).tolist()
    with runtime.load(place, allow_unverified=True) as model:
        model.compile(sampler=keras_sampler(sampler))
        assert model.generate(TEXTS, max_length=TEXT_LENGTH) == want["texts"]
        model.compile(sampler=keras_sampler(sampler))
        pieces = list(model.stream(TEXTS[0], max_length=TEXT_LENGTH))
        assert "".join(pieces) == want["text"]
        assert len(pieces) > 2 or model.sampler.lock_step


def test_the_comparison_could_fail(room: Room) -> None:
    """Rows gain many different tokens, every sampler goes a way of its own, and a row alone goes another one than in its batch."""
    answers = {sampler: np.asarray(room.original(sampler)["ids"]) for sampler in SAMPLERS}
    for ids in answers.values():
        assert len(set(ids[:, min(PROMPT_LENGTHS) :].ravel().tolist())) >= LEAST_DISTINCT
    assert len({ids.tobytes() for ids in answers.values()}) == len(SAMPLERS)
    alone = room._ask("GreedySampler", None, {name: array[:1] for name, array in room.inputs().items()}, stop_token_ids=None)
    assert np.asarray(alone["token_ids"])[0].tolist() != answers["GreedySampler"][0].tolist()


@pytest.mark.parametrize("target", targets.known())
def test_an_adapter_on_attention_is_proven(target: str, tmp_path: Path) -> None:
    """LoRA of the attention layer's queries and values, merged: tokens are those of the original with the adapter loaded, and others than without."""
    from kexport.converter import convert

    task = ZOO["qwen3.5"].build()
    task.backbone.enable_lora(4)
    enabled = [layer.path for layer in task.backbone._flatten_layers() if getattr(layer, "lora_enabled", False)]
    assert len(enabled) == 2
    generator = np.random.default_rng(3)
    for variable in task.variables:
        if "lora_kernel" in variable.path:
            variable.assign(generator.normal(0, 0.3, variable.shape))
    task.backbone.save_lora_weights(str(tmp_path / "adapter.lora.h5"))
    plain = ZOO["qwen3.5"].build()
    artifact = convert(plain, target, tmp_path / "out", max_length=48, lora=str(tmp_path / "adapter.lora.h5"))
    parity = artifact.manifest.parity
    assert (parity.verdict, parity.near_ties) == ("proven", 0)
    inputs = {"token_ids": ragged((5,), 48)[0] % 90, "padding_mask": ragged((5,), 48)[1]}
    with runtime.load(artifact.directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        got = model.generate(inputs, stop_token_ids=None)["token_ids"]
    rows = []
    for original in (task, plain):
        original.compile(sampler="greedy")
        rows.append(np.asarray(original.generate(inputs, stop_token_ids=None)["token_ids"]).tolist())
    assert got.tolist() == rows[0] != rows[1]
