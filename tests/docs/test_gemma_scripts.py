"""Two scripts as KerasHub's users write them: one runs on an artifact with another load line, one trains and converts what it trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).with_name("scripts")
LOAD_LINE = "load = keras_hub.models.GemmaCausalLM.from_preset  # the load line"
LOSS_TOLERANCE = 1e-4  # of the logits' spread, as everywhere


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Gemma with a trained tokenizer and numbers wide enough that it does not repeat itself."""
    from tests.converter import tiny_models

    task = tiny_models.gemma()
    generator = np.random.default_rng(4)
    for variable in task.variables:
        if len(variable.shape) > 1:
            variable.assign(generator.normal(0, 0.4, variable.shape).astype(np.float32))
    return tiny_models.save_preset(task, tmp_path_factory.mktemp("gemma") / "preset")


def run(script: Path, *arguments: object) -> None:
    """In a process of its own."""
    finished = subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]


def test_the_inference_script_runs_with_another_load_line(preset: Path, tmp_path: Path) -> None:
    """Everything it computes is what KerasHub computes: texts and ids exactly, scores within rounding."""
    from kexport.converter import convert

    convert(preset, output=tmp_path / "artifact", signatures=("score",))
    text = (SCRIPTS / "gemma_inference.py").read_text(encoding="utf-8")
    assert text.count(LOAD_LINE) == 1
    (tmp_path / "on_artifact.py").write_text(text.replace(LOAD_LINE, "from kexport.runtime import load"), encoding="utf-8")
    run(SCRIPTS / "gemma_inference.py", preset, tmp_path / "theirs.npz")
    run(tmp_path / "on_artifact.py", tmp_path / "artifact", tmp_path / "ours.npz")
    with np.load(tmp_path / "theirs.npz") as theirs, np.load(tmp_path / "ours.npz") as ours:
        assert set(theirs) == set(ours)
        for name in set(theirs) - {"logits", "loss"}:
            assert ours[name].tolist() == theirs[name].tolist(), name
        spread = float(np.ptp(theirs["logits"]))
        for name in ("logits", "loss"):
            assert np.abs(ours[name] - theirs[name]).max() <= LOSS_TOLERANCE * spread, name
        assert len(set(theirs["id mode"][0].tolist())) > 5


def test_what_the_training_script_trained_says_the_same(preset: Path, tmp_path: Path) -> None:
    """After fit(), and after LoRA and fit(): the artifact's texts are the live object's, and training changed them."""
    run(SCRIPTS / "gemma_training.py", preset, tmp_path)
    with np.load(tmp_path / "texts.npz") as texts:
        said: dict[str, Any] = {name: texts[name].tolist() for name in texts}
    for name in ("fitted", "adapted"):
        assert said[name] != said["before"]
        with runtime.load(tmp_path / name) as model:
            model.compile(sampler="greedy")
            assert model.generate(["This is a", "Where are you", "The quick"], max_length=24) == said[name]
    assert said["fitted"] != said["adapted"]
