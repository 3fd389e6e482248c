"""What is measured: the preset, and its artifact for each target."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from kexport.converter.benchmark.traffic import step_bytes
from kexport.runtime.contract.manifest_io import read_manifest

from comparison.document import Conversion, Work, without_directories

BENCHMARKS = Path(__file__).parents[1]
MODEL = "bench"
PRESET_FOLDER, ARTIFACTS = "preset", "artifacts"
MANIFEST = "kexport.json"
METADATA = "metadata.json"


def make_preset(workdir: Path) -> Path:
    """The 125M preset in `workdir`, written once. Raises click.ClickException if it cannot be."""
    preset = workdir / PRESET_FOLDER
    if not (preset / METADATA).exists():
        shutil.rmtree(preset, ignore_errors=True)  # what an interrupted run left
        _run([sys.executable, str(BENCHMARKS / "make_models.py"), MODEL, str(preset)])
    return preset


def parameter_count(preset: Path) -> int:
    """How many parameters the preset says it has."""
    return int(json.loads((preset / METADATA).read_text(encoding="utf-8"))["parameter_count"])


def convert(preset: Path, targets: Sequence[str], workdir: Path, work: Work, *, reuse: bool) -> list[Conversion]:
    """One artifact a target in `workdir`, made anew unless `reuse`; a target that fails does not stop the others."""
    missing = [name for name in targets if not (reuse and (artifact(workdir, name) / MANIFEST).exists())]
    made = {one.target: one for one in _convert(preset, missing, workdir)} if missing else {}
    return [_with_traffic(made.get(name) or _found(workdir, name), workdir, work) for name in targets]


def artifact(workdir: Path, target: str) -> Path:
    """Where the artifact of a target stands."""
    return workdir / ARTIFACTS / target


def _convert(preset: Path, targets: Sequence[str], workdir: Path) -> list[Conversion]:
    output = workdir / ARTIFACTS if len(targets) > 1 else artifact(workdir, targets[0])
    options = ["--target", ",".join(targets), "--no-verify", "--no-tokenizer", "--force", "--json", "--quiet", "-o", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "kexport.converter", "convert", str(preset), *options], stdout=subprocess.PIPE, text=True, check=False
    )
    if not done.stdout:
        raise click.ClickException(f"the conversion ended with exit code {done.returncode}")
    documents = json.loads(done.stdout)
    return [_conversion(one) for one in (documents if isinstance(documents, list) else [documents])]


def _conversion(document: dict[str, object]) -> Conversion:
    if error := document.get("error"):
        assert isinstance(error, dict)
        return Conversion(str(document["target"]), error=without_directories(f"{error['code']}: {error['message']}"))
    seconds, size = document["seconds"], document["bytes"]
    assert isinstance(seconds, dict) and isinstance(size, int)
    return Conversion(str(document["target"]), size, seconds)


def _found(workdir: Path, target: str) -> Conversion:
    return Conversion(target, sum(file.bytes for file in read_manifest(artifact(workdir, target)).files))


def _with_traffic(conversion: Conversion, workdir: Path, work: Work) -> Conversion:
    """The conversion with the bytes that the average timed step must read: the first new token comes of the prompt, the others of a step each."""
    if conversion.error:
        return conversion
    manifest = read_manifest(artifact(workdir, conversion.target))
    steps = [step_bytes(manifest, batch=1, held=work.prompt_tokens + number) for number in range(1, work.new_tokens)]
    return Conversion(conversion.target, conversion.bytes, conversion.seconds, round(statistics.mean(steps)))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise click.ClickException(f"{Path(command[1]).name} ended with exit code {done.returncode}")
