"""`inspect`, `list` and `doctor`: what they show comes from manifest, folders and package metadata."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from kexport import targets
from kexport.converter import diagnosis
from kexport.converter.families import FAMILIES
from kexport.runtime.contract.manifest import Certificate, Experts, Fusion, ParityCase, VendorRuntime
from kexport.runtime.contract.manifest_io import read_manifest, write_manifest
from kexport.runtime.engines.base import engine_targets

from tests.targets.recurrent import write

from .conftest import Run

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def told(decoder: Path, tmp_path: Path) -> Path:
    """A manifest that has something to tell in every table."""
    case = ParityCase(
        name="ragged batch", inputs={"token_ids": [[1, 2]]}, expected=[[1, 2, 3]], max_length=3, tokens_compared=41, tokens_equal=40, near_ties=1,
        max_logit_difference=1.5e-6, smallest_gap=0.25,
    )  # fmt: skip
    manifest = msgspec.structs.replace(
        read_manifest(decoder),
        cache=msgspec.structs.replace(read_manifest(decoder).cache, bytes_per_token=1000, capacity=64),
        fusions=(
            Fusion(layer="layer_0", form="GroupQueryAttention", fused=True),
            Fusion(layer="layer_1", form="plain", fused=False, reason="odd mask"),
        ),
        experts=(Experts(layer="layer_1/experts", form="MoE", count=64, taken=4, sparse=True),),
        ops={"MatMul": 7},
        runtimes=(VendorRuntime(name="onnxruntime-genai", accepted=False, reason="no such type"),),
        parity=Certificate(verdict="proven", oracle="generate", cases=(case,), tokens_compared=41, tokens_equal=40, near_ties=1),
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_inspect_tells_everything(run: Run, told: Path) -> None:
    """Signatures, caches with their sizes, fused and fallback layers with reasons, runtimes with reasons, the certificate."""
    shown = run("inspect", told)
    assert shown.exit_code == 0
    for text in (
        "input_ids", "[batch, sequence]", "64 tokens", "1.0 kB for one row", "64.0 kB for one row", "fallback", "odd mask", "MatMul", "layer_1/experts", "4 of 64",
        "onnxruntime-genai", "no such type", "ragged batch", "0.25", "proven: 40 of 41 tokens equal, 1 near ties",
    ):  # fmt: skip
        assert text in shown.stdout, text


def test_inspect_json_is_the_manifest_and_more(run: Run, told: Path) -> None:
    """`--json` gives the manifest's own keys, and the computed sizes."""
    document = json.loads(run("inspect", told, "--json").stdout)
    assert document["parity"]["cases"][0]["tokens_equal"] == 40
    assert document["cache_bytes"] == {"per_token": 1000, "states": 0, "at_capacity": 64_000}


def test_inspect_shows_states(run: Run, tmp_path: Path) -> None:
    """States have a table of their own, with the shape of a row's; caches of keys and values stand beside it only where there are any."""
    for name, caches in (("hybrid", True), ("states only", False)):
        directory = tmp_path / name
        directory.mkdir()
        write_manifest(directory, write("onnx", name, directory).manifest)
        shown = run("inspect", directory)
        assert shown.exit_code == 0
        assert ("Caches" in shown.stdout) == caches
        for text in ("States", "recurrent", "[2, 8, 4]", "whatever its length", "delta rule, parallel over a chunk"):
            assert text in shown.stdout, (name, text)
    document = json.loads(run("inspect", tmp_path / "states only", "--json").stdout)
    assert document["cache_bytes"] == {"per_token": 0, "states": 2 * 4 * (32 + 2 * 8 * 4), "at_capacity": 2 * 4 * (32 + 2 * 8 * 4)}


def test_inspect_shows_fixed_lengths(run: Run, decoder: Path, tmp_path: Path) -> None:
    """Of a signature whose shapes do not tell them."""
    manifest = read_manifest(decoder)
    fixed = tuple(msgspec.structs.replace(signature, sequence_lengths=(64, 128)) for signature in manifest.signatures)
    write_manifest(tmp_path, msgspec.structs.replace(manifest, signatures=fixed))
    assert f"{fixed[0].name} (64, 128)" in run("inspect", tmp_path).stdout


def test_inspect_prints_what_it_is_given_as_text(run: Run, decoder: Path, tmp_path: Path) -> None:
    """A manifest of a stranger cannot steer the terminal: no markup is read, no escape sequence passes."""
    manifest = read_manifest(decoder)
    evil = msgspec.structs.replace(manifest.source, handle="[red]\x1b[2Jgone[/nothing]")
    write_manifest(tmp_path, msgspec.structs.replace(manifest, source=evil))
    result = run("inspect", tmp_path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[red]\ufffd[2Jgone[/nothing]" in result.stdout


@pytest.mark.parametrize("damage", ["cut", "unknown key", "future"])
def test_inspect_refuses_a_damaged_manifest(run: Run, told: Path, damage: str) -> None:
    """A manifest that is cut, has unknown keys, or is from the future exits with 5."""
    path = told / "kexport.json"
    text = path.read_text(encoding="utf-8")
    changed = {
        "cut": text[:-20],
        "unknown key": text.replace('"task"', '"tusk"', 1),
        "future": text.replace('"format_version": 1', '"format_version": 2'),
    }
    path.write_text(changed[damage], encoding="utf-8")
    result = run("inspect", told)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "error[KX50" in result.stderr


def test_list_names_what_is_there(run: Run) -> None:
    """The targets and engines are the folders and files that exist; the families those of the table."""
    document = json.loads(run("list", "--json").stdout)
    assert [target["name"] for target in document["targets"]] == list(targets.known())
    assert [target["name"] for target in document["targets"] if target["engine"]] == [
        name for name in targets.known() if name in engine_targets()
    ]
    assert [family["name"] for family in document["families"]] == [family.name for family in FAMILIES]
    assert all(set(family.targets) <= set(targets.known()) for family in FAMILIES)


def test_readme_has_the_same_table() -> None:
    """The README's support table is that of `kexport list`."""
    lines = README.read_text(encoding="utf-8").splitlines()
    for family in FAMILIES:
        assert f"| {family.name} | {', '.join(f'`{name}`' for name in family.classes)} | {', '.join(family.targets)} |" in lines


def test_doctor_knows_the_extras(run: Run) -> None:
    """Every extra of the package metadata is there with its packages; a missing or old one has the line that gets it."""
    document = json.loads(run("doctor", "--json").stdout)
    extras = {extra["name"]: extra for extra in document["extras"]}
    assert {"onnx", "convert", "all", "dev"} <= set(extras)
    assert {"numpy", "onnxruntime", "tokenizers"} <= {package["name"] for package in extras["onnx"]["packages"]}
    assert {package["name"] for package in extras["onnx"]["packages"]} < {package["name"] for package in extras["convert"]["packages"]}
    assert extras["onnx"]["install"] == 'pip install "kexport[onnx]"'
    assert document["threads"] >= 1
    assert document["disk_free"] > 0


def test_packages_are_compared_by_version() -> None:
    """A package is fine when it is there and new enough; 1.9 is older than 1.22."""
    assert diagnosis.Package("x", "1.22.1", "1.22").is_fine
    assert diagnosis.Package("x", "2.0rc1", "").is_fine
    assert not diagnosis.Package("x", "1.9", "1.22").is_fine
    assert not diagnosis.Package("x", "", "1").is_fine


def test_known_bad_combinations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A combination that does not work is named, and the exit code is 4."""
    assert diagnosis._two_onnxruntimes({"onnxruntime": "1", "onnxruntime-gpu": "1"})
    assert not diagnosis._two_onnxruntimes({"onnxruntime": "1"})
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    result = run("doctor")
    assert result.exit_code == 4
    assert "TF_USE_LEGACY_KERAS" in result.stdout
