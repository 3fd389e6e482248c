"""The tokenizer of every text family, written and proven: ids, packing and text are the original's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.converter.tokenizers import export_tokenizer
from kexport.converter.tokenizers.proof_strings import ORDINARY
from kexport.runtime.tokenizer import open_tokenizer

from tests.converter.family_tokenizers import CLASSES, preprocessor
from tests.zoo import ZOO

pytestmark = pytest.mark.slow
FEWEST_STRINGS = 2_000
LONGEST = 12
VOCABULARY_SIZES = {"vocabulary_size", "text_vocab_size", "vocab_size_per_layer_input"}  # what families call it
NAMES = sorted(CLASSES)


@pytest.mark.parametrize("class_name", NAMES)
def test_it_ships_proven(class_name: str, tmp_path: Path) -> None:
    """At least 2,000 strings give the original's ids (the export compares packing, too); random ids give its text, special ids left out or not as it does."""
    original = preprocessor(class_name)
    record = export_tokenizer(original, tmp_path)
    assert record.proven_strings >= FEWEST_STRINGS
    written = open_tokenizer(tmp_path, record)
    prefix = "" if "prompt" in record.packers else "decoder_"
    rows = np.random.default_rng(11).integers(0, record.vocabulary_size, (200, LONGEST)).astype("int32")
    special = sorted(int(identifier) for identifier in original.tokenizer.special_token_ids)
    rows[: len(special), 4] = special
    inputs: dict[str, Any] = {f"{prefix}token_ids": rows, f"{prefix}padding_mask": np.ones_like(rows, bool)}
    expected = original.generate_postprocess(inputs)
    assert [written.decode(row.tolist()) for row in rows] == list(expected)
    assert written.encode(list(ORDINARY)) == [[int(token) for token in row] for row in original.tokenizer.tokenize(list(ORDINARY))]


def classes_of_the_zoo() -> list[str]:
    """Those that have a small model there; the seed families' texts are compared where they are converted."""
    return sorted({f"{variant.prefix}{variant.task}" for variant in ZOO.values()} & set(NAMES))


@pytest.mark.parametrize("class_name", classes_of_the_zoo())
def test_text_generates_as_the_original_does(class_name: str, tmp_path: Path) -> None:
    """A small model of the family with its preprocessor: the gate compares texts with KerasHub's generate() on strings, and the ids with them."""
    from kexport.converter.conversion import convert

    variant = next(variant for variant in ZOO.values() if f"{variant.prefix}{variant.task}" == class_name)
    text = preprocessor(class_name)
    sizes = dict.fromkeys(VOCABULARY_SIZES & set(variant.config), text.tokenizer.vocabulary_size())
    task = replace(variant, config={**variant.config, **sizes}).build()
    task.preprocessor = text
    artifact = convert(task, output=tmp_path / "out", max_length=64)
    manifest = artifact.manifest
    assert manifest.parity.verdict == "proven" and manifest.tokenizer is not None
    (case,) = [case for case in manifest.parity.cases if case.texts]
    assert case.tokens_equal == case.tokens_compared == len(case.texts)
    assert any(answer != prompt for prompt, answer in zip(case.texts, case.expected_texts, strict=True))
