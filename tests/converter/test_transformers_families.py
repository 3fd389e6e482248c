"""Every model type that KerasHub converts from the transformers layout, from its directory to a proven artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
from kexport.converter.conversion import convert
from kexport.converter.sources.transformers import MODEL_TYPES

from tests.converter.transformers_checkpoints import CONFIGS, write_checkpoint

pytestmark = pytest.mark.slow
CAPACITY = 40


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_a_directory_converts_and_is_proven(model_type: str, tmp_path: Path) -> None:
    """KerasHub loads the directory as the original, kexport records its converter's assignments: the tokens are equal."""
    write_checkpoint(model_type, tmp_path / "checkpoint")
    artifact = convert(tmp_path / "checkpoint", output=tmp_path / "out", max_length=CAPACITY)
    parity = artifact.manifest.parity
    assert (parity.verdict, parity.near_ties) == ("proven", 0)
    assert artifact.manifest.source.class_name == MODEL_TYPES[model_type][0]
    assert len({token for case in parity.cases for row in case.expected for token in row}) > CAPACITY
