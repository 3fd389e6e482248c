"""What a user gets from the wheel: a small core, an engine without Keras, and nothing generic in site-packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..runtime.gqa_model import write_decoder
from .environments import build_wheel, files, importable, make_environment, run, top_level_names

pytestmark = pytest.mark.slow
PARTS = ("converter", "graphs", "runtime", "targets")
CORE = {"click", "kexport", "markdown-it-py", "mdurl", "msgspec", "pip", "pygments", "rich", "setuptools"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pip install kexport`."""
    return make_environment(tmp_path_factory.mktemp("core"), wheel)


@pytest.fixture(scope="module")
def engine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pip install kexport[onnx]`."""
    return make_environment(tmp_path_factory.mktemp("engine"), wheel, "onnx")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-built artifact."""
    directory = tmp_path_factory.mktemp("artifact")
    write_decoder(directory)
    return directory


def test_wheel_contents(wheel: Path) -> None:
    """Only `kexport` lands in site-packages; every part is typed and has its files."""
    assert top_level_names(wheel) == {"kexport"}
    names = files(wheel)
    assert {f"kexport/{part}/py.typed" for part in PARTS} <= names
    assert "kexport/__init__.py" not in names  # a namespace
    repository = Path(__file__).parents[2]
    sources = {f"kexport/{path.relative_to(repository).as_posix()}" for part in PARTS for path in (repository / part).rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_core_only(core: Path, artifact: Path) -> None:
    """Without extras `--help`, `--version`, `inspect`, `list` and `doctor` run, and no more than the core's libraries are there."""
    assert importable(core, "numpy", "onnxruntime", "keras", "tensorflow", "tokenizers") == []
    installed = {entry["name"].lower() for entry in json.loads(run(core / "python", "-m", "pip", "list", "--format=json").stdout)}
    assert installed <= CORE
    for arguments in (["--help"], ["--version"], ["inspect", artifact], ["inspect", artifact, "--json"], ["list"], ["doctor"]):
        assert run(core / "kexport", *arguments).stdout


@pytest.mark.parametrize("command", ["generate", "bench"])
def test_core_only_says_what_is_missing(core: Path, artifact: Path, command: str) -> None:
    """What needs an engine exits with 4 and says which extra brings it."""
    arguments = ["--token-ids", "1 2"] if command == "generate" else []
    done = run(core / "kexport", command, artifact, *arguments, check=False)
    assert done.returncode == 4
    assert 'pip install "kexport[onnx]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["convert", "plan"])
def test_engine_only_says_what_is_missing(engine: Path, tmp_path: Path, command: str) -> None:
    """What needs Keras exits with 4 (or 5: the preset is looked at first) and without a traceback."""
    arguments = ["-o", tmp_path / "OUT"] if command == "convert" else []
    done = run(engine / "kexport", command, "mistral_7b_en", *arguments, check=False)
    assert done.returncode == 4, done.stderr
    assert 'pip install "kexport[convert]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_engine_only(engine: Path, artifact: Path) -> None:
    """`kexport[onnx]` generates, without Keras and TensorFlow on the machine; a second run gives the same ids."""
    assert importable(engine, "keras", "keras_hub", "tensorflow", "h5py", "onnx") == []
    command = [engine / "kexport", "generate", artifact, "--token-ids", "1 2 3", "--sampler", "greedy", "--max-new-tokens", "5"]
    first, second = run(*command), run(*command)
    assert len(first.stdout.split()) == 3 + 5
    assert first.stdout == second.stdout


def test_engine_only_from_python(engine: Path, artifact: Path) -> None:
    """`from kexport import runtime` is enough for a program."""
    program = f"""
from kexport import runtime
with runtime.load({str(artifact)!r}, preprocessor=None) as model:
    model.compile(sampler="greedy")
    print(model.generate({{"token_ids": [[1, 2, 0, 0]], "padding_mask": [[1, 1, 0, 0]]}}, stop_token_ids=None)["token_ids"].shape)
"""
    assert run(engine / "python", "-c", program).stdout.strip() == "(1, 4)"
