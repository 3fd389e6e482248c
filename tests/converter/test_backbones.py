"""Backbones of many families alone, on the targets that take them: proven at conversion, the same numbers from the runtime; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert, convert_all
from kexport.runtime.contract.errors import UnsupportedError

from tests.converter.test_forward import TARGETS, close
from tests.zoo.encoders import BACKBONES, REFUSED
from tests.zoo.variant import VOCABULARY

WITHOUT_ATTENTION = {"f_net"}
NOT_PADDED = {"f_net", "xlnet"}  # their rows cannot be padded to the fixed lengths of TFLite
pytestmark = pytest.mark.slow
LENGTHS = {"encoder": (30, 4, 11), "": (11, 4, 30)}


def rows_for(backbone: Any) -> dict[str, Any]:
    """Three rows of different lengths for each side of the backbone; segments at random."""
    generator = np.random.default_rng(5)
    rows: dict[str, Any] = {}
    for name in backbone.input:
        lengths = LENGTHS.get(name.partition("_")[0], LENGTHS[""])
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        ids = generator.integers(2, VOCABULARY, mask.shape).astype(np.int32)
        rows[name] = mask if name.endswith("mask") else ids % 2 if name.startswith("segment") else np.where(mask, ids, 0).astype(np.int32)
    return rows


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_backbone_gives_kerashubs_hidden_states(name: str, tmp_path: Path) -> None:
    """Every output of every target, padding included, under KerasHub's names; each attention is in the graph as attention."""
    backbone = BACKBONES[name].build()
    rows = rows_for(backbone)
    theirs = backbone(rows)
    for outcome in convert_all(backbone, ",".join(TARGETS), tmp_path / "out", task="backbone", max_length=40):
        if outcome.target == "tflite" and name in NOT_PADDED:
            assert outcome.error is not None and outcome.error.code == "KX382"
            continue
        assert outcome.error is None
        manifest = outcome.artifact.manifest
        assert manifest.parity.verdict == "proven" and manifest.parity.warnings == () and bool(manifest.fusions) == (name not in WITHOUT_ATTENTION)
        with runtime.load(outcome.artifact.directory) as model:
            ours = model(rows)
        assert isinstance(ours, dict) == isinstance(theirs, dict)
        for key in theirs if isinstance(theirs, dict) else [None]:
            close(ours[key] if key else ours, theirs[key] if key else theirs)


@pytest.mark.parametrize(("name", "said"), [("siglip, text", "exactly as many tokens"), ("whisper", "audio features")])
def test_what_does_not_convert_says_why(name: str, said: str, tmp_path: Path) -> None:
    """By the class's name; nothing is written."""
    with pytest.raises(UnsupportedError) as caught:
        convert(REFUSED[name].build(), output=tmp_path / "out", task="backbone", max_length=40)
    assert caught.value.code == "KX417" and said in caught.value.message and not (tmp_path / "out").exists()


def test_an_unknown_backbone_is_refused_by_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes no tables of token ids is told from them where no list knows its name."""
    from kexport.converter.backbone_refusals import BACKBONE_REFUSALS

    monkeypatch.delitem(BACKBONE_REFUSALS, "WhisperBackbone")
    with pytest.raises(UnsupportedError) as caught:
        convert(REFUSED["whisper"].build(), output=tmp_path / "out", task="backbone", max_length=40)
    assert caught.value.code == "KX380" and "encoder_features" in caught.value.message


def test_rows_of_xlnet_depend_on_their_batch(tmp_path: Path) -> None:
    """KerasHub mixes the rows of a batch; the artifact gives for each batch what KerasHub gives for it."""
    backbone = BACKBONES["xlnet"].build()
    rows = rows_for(backbone)
    made = convert(backbone, output=tmp_path / "out", task="backbone", max_length=40)
    with runtime.load(made.directory) as model:
        together, alone = model(rows), model({name: table[2:] for name, table in rows.items()})
    close(together, backbone(rows))
    close(alone, backbone({name: table[2:] for name, table in rows.items()}))
    assert np.abs(together[2:] - alone).max() > 0.1 * alone.std()
