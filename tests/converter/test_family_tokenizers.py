"""The tokenizer of every text family, written and proven: ids, packing and text are the original's. What models make of texts: tests/parity/test_families.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.converter.tokenizers import export_tokenizer
from kexport.converter.tokenizers.proof_strings import ORDINARY
from kexport.runtime.tokenizer import open_tokenizer

from tests.converter.family_tokenizers import CLASSES, preprocessor

pytestmark = pytest.mark.slow
FEWEST_STRINGS = 2_000
LONGEST = 12
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
