"""Every model type that KerasHub converts from the transformers layout, from its directory to a proven artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
from kexport.converter.conversion import convert
from kexport.converter.sources.transformers import MODEL_TYPES

from tests.converter.transformers_checkpoints import CONFIGS, write_checkpoint

pytestmark = pytest.mark.slow
CAPACITY = 40
# Their checkpoints hold towers for images or sound beside the text model, which KerasHub's converter builds in full size.
WITH_TOWERS = {"gemma3", "gemma3n", "gemma4", "paligemma"}


def test_every_model_type_is_here() -> None:
    """A converter that is new in KerasHub and known to us gets a checkpoint here."""
    assert set(MODEL_TYPES) == set(CONFIGS) | WITH_TOWERS


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_a_directory_converts_and_is_proven(model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KerasHub loads the directory as the original, kexport records its converter's assignments: the tokens are equal, and nothing is printed among results."""
    write_checkpoint(model_type, tmp_path / "checkpoint")
    capsys.readouterr()
    artifact = convert(tmp_path / "checkpoint", output=tmp_path / "out", max_length=CAPACITY)
    parity = artifact.manifest.parity
    assert (parity.verdict, parity.near_ties) == ("proven", 0)
    assert artifact.manifest.source.class_name == MODEL_TYPES[model_type][0]
    assert len({token for case in parity.cases for row in case.expected for token in row}) > CAPACITY
    assert not capsys.readouterr().out
