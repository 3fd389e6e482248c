"""`hf://` and `kaggle://` handles and KerasHub's own ids, against hubs on this machine, each in its own process (a hub's client reads its settings once)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.converter import local_kaggle
from tests.converter.local_hub import serve
from tests.converter.preset_folder import write_preset

TIMEOUT_SECONDS = 240
BUILT_IN = "bloom_560m_multi"
REPORT = """
import sys
from kexport.converter.sources import open_source
from kexport.runtime.contract.errors import KexportError
try:
    source = open_source(sys.argv[1])
except KexportError as error:
    print(error.code, error.exit_code)
else:
    print(source.kind, source.task, source.parameter_count, source.has_tokenizer, "keras" in sys.modules)
"""
LOAD = """
import sys
import numpy as np
from kexport.converter.sources import open_source
ids = {"token_ids": np.arange(1, 7, dtype="int32")[None], "padding_mask": np.ones((1, 6), bool)}
tasks = [open_source(handle).load() for handle in sys.argv[1:]]
first, *others = [np.asarray(task(ids)) for task in tasks]
print(all(np.array_equal(first, other) for other in others), all(task.preprocessor is not None for task in tasks))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder that is served, and the environment that points at it."""
    root = tmp_path / "hub"
    root.mkdir()
    with serve(root) as endpoint:
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        yield root, {**os.environ, **settings}


@pytest.fixture
def kaggle(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder that is served, and the environment that points at it."""
    root = tmp_path / "kaggle"
    root.mkdir()
    with local_kaggle.serve(root) as settings:
        yield root, {**os.environ, **settings, "KAGGLEHUB_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def run(code: str, environment: dict[str, str], *arguments: str) -> list[str]:
    """The last line of what `code` prints, as words."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1].split()


def test_a_preset_on_a_hub_is_checked_before_keras_is_imported(hub: tuple[Path, dict[str, str]]) -> None:
    """Only the files are fetched; the same facts as from a folder."""
    root, environment = hub
    write_preset(root / "org" / "bloom")
    assert run(REPORT, environment, "hf://org/bloom") == ["preset", "causal-lm", "80", "True", "False"]


@pytest.mark.parametrize(("name", "code", "exit_code"), [("nothing", "KX408", "5"), ("gated", "KX409", "5"), ("empty", "KX410", "5")])
def test_what_the_hub_refuses_is_told_apart(name: str, code: str, exit_code: str, hub: tuple[Path, dict[str, str]]) -> None:
    """An unknown model, a gated one, and one that is no preset: three errors, none of them a traceback."""
    root, environment = hub
    (root / "org" / "empty").mkdir(parents=True)
    assert run(REPORT, environment, f"hf://org/{name}") == [code, exit_code]


def test_a_missing_weights_file_on_a_hub_is_an_input_error(hub: tuple[Path, dict[str, str]]) -> None:
    """The repository answers, the file is not there."""
    root, environment = hub
    (write_preset(root / "org" / "bloom") / "model.weights.h5").unlink()
    assert run(REPORT, environment, "hf://org/bloom") == ["KX420", "5"]


@pytest.mark.slow
def test_a_preset_on_a_hub_loads_as_from_a_folder(hub: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The same logits, and the tokenizer is fetched along."""
    from tests.converter import tiny_models

    root, environment = hub
    tiny_models.save_preset(tiny_models.bloom(), tmp_path / "bloom")
    shutil.copytree(tmp_path / "bloom", root / "org" / "bloom")
    assert run(LOAD, environment, str(tmp_path / "bloom"), "hf://org/bloom") == ["True", "True"]


@pytest.mark.parametrize("version", ["", f"/{local_kaggle.VERSION}"])
def test_a_preset_on_kaggle_is_checked_before_keras_is_imported(version: str, kaggle: tuple[Path, dict[str, str]]) -> None:
    """With and without a version; only the files are fetched."""
    root, environment = kaggle
    write_preset(root / "org/bloom/keras/tiny")
    assert run(local_kaggle.CLIENT + REPORT, environment, f"kaggle://org/bloom/keras/tiny{version}") == ["preset", "causal-lm", "80", "True", "False"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("keras/nothing", "KX408"), ("keras/gated", "KX409"), ("keras/empty", "KX410"), ("keras/weightless", "KX420"), ("unknown/tiny", "KX407")],
)
def test_what_kaggle_refuses_is_told_apart(name: str, code: str, kaggle: tuple[Path, dict[str, str]]) -> None:
    """An unknown model, a gated one, one that is no preset, one without weights, and a framework that Kaggle does not know."""
    root, environment = kaggle
    (root / "org/bloom/keras/empty").mkdir(parents=True)
    (write_preset(root / "org/bloom/keras/weightless") / "model.weights.h5").unlink()
    assert run(local_kaggle.CLIENT + REPORT, environment, f"kaggle://org/bloom/{name}") == [code, "5"]


@pytest.mark.slow
def test_an_id_of_keras_hub_leads_to_kaggle(kaggle: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The built-in id is fetched through kagglehub, checks and KerasHub's own loading alike: the same logits as from a folder, tokenizer included."""
    from kexport.converter.keras_env import import_keras_hub

    from tests.converter import tiny_models

    root, environment = kaggle
    tiny_models.save_preset(tiny_models.bloom(), tmp_path / "bloom")
    handle = import_keras_hub().models.BloomCausalLM.presets[BUILT_IN]["kaggle_handle"].removeprefix("kaggle://")
    shutil.copytree(tmp_path / "bloom", root / handle.rsplit("/", 1)[0])
    assert run(local_kaggle.CLIENT + LOAD, environment, str(tmp_path / "bloom"), BUILT_IN) == ["True", "True"]
