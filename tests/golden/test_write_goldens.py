"""The golden files' check finds a difference, and its parts cover every model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.golden.command import part_of
from tests.golden.zoo_samplers import considered, golden
from tests.seed_models import GOLDEN, MODELS
from tests.zoo import ZOO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> Any:
    """The script; importing it imports Keras."""
    from tests.golden import write_goldens

    return write_goldens


def test_parts_cover_every_model_once(script: Any) -> None:
    """Whatever the number of parts."""
    names = list(MODELS)
    for count in (1, 4, script.PARTS, len(names) + 3):
        assert sorted(name for index in range(count) for name in part_of(names, f"{index}/{count}", script.PARTS)) == sorted(names)


def test_parts_of_the_zoo_cover_every_sampler_of_every_model() -> None:
    """Those of zoo_samplers.py, each once."""
    from tests.golden.write_zoo_samplers import PARTS, UNITS

    found = sorted(unit for index in range(PARTS) for unit in part_of(UNITS, f"{index}/{PARTS}", PARTS))
    assert found == sorted(f"{name}/{sampler}" for name in ZOO for sampler in considered(name))


def test_a_text_that_differs_is_found_in_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """One letter changed in a committed answer. (That all are equal is what `make golden` sees.)"""
    from tests.golden import write_zoo_samplers

    document = golden("gpt2")
    document["samplers"]["TopKSampler"]["several"][2] += "."
    monkeypatch.setattr(write_zoo_samplers, "golden", lambda name: document)
    assert write_zoo_samplers.differing("gpt2/TopKSampler") == "differs from the committed file"


def test_the_part_of_a_commit_is_one_of_the_parts(script: Any) -> None:
    """The number of commits chooses it."""
    names = list(MODELS)
    assert part_of(names, "commit", script.PARTS) in [part_of(names, f"{index}/{script.PARTS}", script.PARTS) for index in range(script.PARTS)]


@pytest.mark.parametrize("what", ["nothing", "a token", "an attribute", "a stop mask", "a weight's spread"])
def test_a_difference_is_found(what: str, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number changed in a committed file is named."""
    shutil.copy(GOLDEN / "mistral.json", tmp_path)
    document = json.loads((tmp_path / "mistral.json").read_text())
    edits: dict[str, tuple[list[str], Any]] = {
        "nothing": ([], lambda: None),
        "a token": (["tokens"], lambda: document["tokens"][1].__setitem__(-1, document["tokens"][1][-1] ^ 1)),
        "an attribute": (["graphs"], lambda: document["graphs"]["extend"]["nodes"][1]["attrs"].update(epsilon=1e-5)),
        "a stop mask": (["with_stop"], lambda: document["with_stop"]["masks"][0].__setitem__(-1, 1 - document["with_stop"]["masks"][0][-1])),
        "a weight's spread": (["model"], lambda: document["model"].update(spread="balanced")),
    }
    expected, edit = edits[what]
    edit()
    (tmp_path / "mistral.json").write_text(json.dumps(document))
    monkeypatch.setattr(script, "GOLDEN", tmp_path)
    assert script.differences("mistral") == expected
