"""Hidden states that steps give are proven with the tokens, on every target; wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport import targets
from kexport.converter.conversion import convert_all
from kexport.converter.parity.oracle import Oracle
from kexport.runtime.contract.errors import ParityError

from tests.seed_models import MODELS

pytestmark = pytest.mark.slow


def converted(name: str, folder: Path, target: str) -> Any:
    """The outcomes of a seed model's preset."""
    from tests.stock_models import save_preset

    save_preset(MODELS[name], folder / "preset")
    return convert_all(folder / "preset", target, folder / "out", max_length=40, signatures=("hidden_states",))


@pytest.mark.parametrize("name", ["gemma2", "bart"])
def test_the_certificate_has_their_difference(name: str, tmp_path: Path) -> None:
    """Beside that of the logits, on every target."""
    outcomes = converted(name, tmp_path, "all")
    assert {one.target: one.error for one in outcomes} == dict.fromkeys(targets.known())
    for one in outcomes:
        parity = one.artifact.manifest.parity
        assert parity.verdict == "proven" and 0 < parity.max_logit_difference["hidden_states"] < 1e-3


def test_wrong_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every token is right."""
    stock = Oracle.hidden_states
    monkeypatch.setattr(Oracle, "hidden_states", lambda self, case, rows: stock(self, case, rows) * 1.01)
    (outcome,) = converted("mistral", tmp_path, "onnx")
    assert isinstance(outcome.error, ParityError) and outcome.error.code == "KX383"
    assert "`hidden_states`" in outcome.error.message and not (tmp_path / "out").exists()
