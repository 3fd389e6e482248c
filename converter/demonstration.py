"""What `kexport demo` does: convert the repository's small story model, prove it, and let it tell on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kexport import runtime
from kexport.converter.artifact import Artifact
from kexport.converter.conversion import convert
from kexport.runtime.contract.errors import UsageError
from kexport.runtime.contract.progress import Reporter

PRESET = Path("examples") / "demo_preset"
TARGET = "onnx"
PROMPTS = ("Once upon a time", "Long ago, in a village by the sea,")
NEW_TOKENS = 120
SEED = 7


@dataclass(frozen=True)
class Told:
    """What one sampler made of one prompt."""

    sampler: str
    text: str


def find_preset() -> Path:
    """The demo preset of the repository: that of an editable install, or of the working directory.

    A wheel does not carry it: it weighs more than all of kexport. Raises UsageError (KX112) where it is not found.
    """
    for root in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (root / PRESET).is_dir():
            return root / PRESET
    hint = "run `make demo` in a clone of kexport's repository, or give the preset's directory with --preset"
    raise UsageError(
        "KX112", f"`{PRESET}` is not here: the demo model comes with the repository, not with the installed package", hint=hint
    )


def run(preset: Path, workdir: Path, reporter: Reporter) -> tuple[Artifact, list[Told]]:
    """Convert `preset` into `workdir`, replacing an earlier demo, and generate greedily and with top_k. Raises as `convert` and `load` do."""
    artifact = convert(preset, target=TARGET, output=workdir / TARGET, reporter=reporter, force=True)
    told = []
    samplers = (runtime.samplers.GreedySampler(), runtime.samplers.TopKSampler(k=5, seed=SEED))
    with runtime.load(artifact.directory) as model:
        for prompt, sampler in zip(PROMPTS, samplers, strict=True):
            model.compile(sampler=sampler)
            told.append(Told(type(sampler).__name__, str(model.generate(prompt, max_length=NEW_TOKENS))))
    return artifact, told
