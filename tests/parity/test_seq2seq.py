"""Encoder-decoders beyond the gate's cases: distances past every bucket, beams over repeated encoders, and texts in each form that generate() takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert, convert_all
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

from tests.converter.family_tokenizers import preprocessor
from tests.zoo import ZOO
from tests.zoo.variant import VOCABULARY

pytestmark = pytest.mark.slow
LONG, FAR = 140, 172  # of a prompt, of a row: beyond T5's largest distance, 128
LEAST_DISTINCT = 15  # of a row's last 30 tokens
MAX_LENGTH = 24


def prompts(lengths: tuple[int, ...], total: int, seed: int) -> dict[str, Any]:
    """Decoder rows of these lengths in rows of `total`, encoder rows of the same lengths in another order."""
    generator = np.random.default_rng(seed)
    rows: dict[str, Any] = {}
    for side, sizes, length in (("encoder", lengths[::-1], max(lengths)), ("decoder", lengths, total)):
        mask = np.arange(length) < np.array(sizes)[:, None]
        rows[f"{side}_token_ids"] = np.where(mask, generator.integers(1, VOCABULARY, mask.shape), 0).astype(np.int32)
        rows[f"{side}_padding_mask"] = mask
    return rows


def test_distances_past_every_bucket(tmp_path: Path) -> None:
    """A ragged batch of long rows on both sides of T5: its logarithmic buckets and the one for all that is farther, on every target."""
    task = ZOO["t5 1.1, gated, head of its own"].build()
    task.compile(sampler="greedy")
    rows = prompts((LONG, 9), FAR, 3)
    theirs = np.asarray(task.generate(rows, stop_token_ids=None)["decoder_token_ids"])
    assert min(len(set(row[-30:].tolist())) for row in theirs) >= LEAST_DISTINCT
    for outcome in convert_all(task, "all", tmp_path / "out", max_length=FAR):
        assert outcome.error is None
        with runtime.load(outcome.artifact.directory, preprocessor=None) as lm:
            lm.compile(sampler="greedy")
            assert np.array_equal(lm.generate(rows, stop_token_ids=None)["decoder_token_ids"], theirs)


@pytest.mark.parametrize(("name", "lengths"), [("t5", (4, 2)), ("t5gemma", (4,)), ("t5gemma2", (4,))])
def test_beams_repeat_the_encoder(name: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    """As KerasHub's beam search does; the original's own fails on several rows where its encoder does not travel with the beams (T5Gemma)."""
    task = ZOO[name].build()
    rows = prompts(lengths, MAX_LENGTH, 4)
    task.compile(sampler="beam")
    theirs = np.asarray(task.generate(rows, stop_token_ids=None)["decoder_token_ids"])
    artifact = convert(task, output=tmp_path / "out", max_length=48)
    with runtime.load(artifact.directory, preprocessor=None) as lm:
        lm.compile(sampler="beam")
        assert np.array_equal(lm.generate(rows, stop_token_ids=None)["decoder_token_ids"], theirs)


@pytest.mark.parametrize("name", ["t5", "t5gemma"])
def test_texts_in_every_form(name: str, tmp_path: Path) -> None:
    """A text, several, and pairs of texts, as the original answers them; a prompt without its decoder text, and stripping, are one clear error each."""
    variant = ZOO[name]
    text = preprocessor(f"{variant.prefix}{variant.task}")
    text.encoder_sequence_length = MAX_LENGTH
    task = replace(variant, config={**variant.config, "vocabulary_size": text.tokenizer.vocabulary_size()}).build()
    task.preprocessor = text
    task.compile(sampler="greedy")
    artifact = convert(task, output=tmp_path / "out", max_length=48)
    forms = ("The quick brown fox", ["The fox", "jumped over it"], {"encoder_text": ["The fox", "over"], "decoder_text": ["A", "The quick"]})
    with runtime.load(artifact.directory) as lm:
        lm.compile(sampler="greedy")
        for form in forms:
            given = dict(form) if isinstance(form, dict) else form  # the original changes the dict it is given
            theirs = task.generate(given, max_length=MAX_LENGTH)
            ours = lm.generate(form, max_length=MAX_LENGTH)
            assert ours == theirs and isinstance(ours, str) == isinstance(form, str)
        with pytest.raises(InvalidInputError, match="decoder_text"):
            lm.generate({"encoder_text": "The fox"})
        with pytest.raises(UnsupportedError, match="KX525"):
            lm.generate("The fox", strip_prompt=True)
