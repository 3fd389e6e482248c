"""`kexport demo`: from the preset in the repository to a proven artifact for every target, and the same texts from all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kexport import targets
from kexport.converter import demonstration
from kexport.runtime.contract.errors import UsageError

from .conftest import Run

DISTINCT_WORDS = 30


@pytest.mark.slow
def test_demo(run: Run, tmp_path: Path) -> None:
    """The demo model converts for every target, every token is KerasHub's, and all tell the same texts, of many different words."""
    result = run("demo", "--workdir", tmp_path, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [entry["target"] for entry in document["targets"]] == list(targets.known())
    for entry in document["targets"]:
        assert entry["verdict"] == "proven"
        assert entry["tokens_equal"] == entry["tokens_compared"] > 0
        assert (tmp_path / entry["target"] / "kexport.json").exists()
    assert len(document["texts"]) == len(demonstration.PROMPTS), "the targets tell different stories"
    for prompt, told in zip(demonstration.PROMPTS, document["texts"], strict=True):
        assert told["targets"] == list(targets.known())
        assert told["text"].startswith(prompt)
        assert len(set(told["text"].split())) >= DISTINCT_WORDS


def test_the_preset_is_in_the_repository() -> None:
    """An editable install finds the preset beside the code."""
    assert (demonstration.find_preset() / "config.json").exists()


def test_without_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wheel has no preset: the error says where to get it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "__file__", str(tmp_path / "site-packages" / "kexport" / "converter" / "demonstration.py"))
    with pytest.raises(UsageError) as caught:
        demonstration.find_preset()
    assert caught.value.code == "KX112"
    assert "--preset" in caught.value.hint
