"""What `kexport demo` does: convert the repository's small story model for every target, prove each, and let each tell on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kexport import runtime
from kexport.converter.artifact import Artifact, Outcome
from kexport.converter.conversion import convert_all
from kexport.runtime.contract.errors import UsageError
from kexport.runtime.contract.progress import Reporter

PRESET = Path("examples") / "demo_preset"
PROMPTS = ("Once upon a time", "Long ago, in a village by the sea,")
NEW_TOKENS = 120
SEED = 7


@dataclass(frozen=True)
class Told:
    """What one sampler made of one prompt, and on which targets it told exactly that."""

    sampler: str
    text: str
    targets: tuple[str, ...]


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


def run(preset: Path, workdir: Path, reporter: Reporter) -> tuple[list[Outcome], list[Told]]:
    """Convert `preset` for all targets into `workdir`, replacing an earlier demo, and generate greedily and with a seeded top_k on each.

    Raises as `convert_all` and `load` do; a target that cannot be made here (a missing extra) is an outcome with its error.
    """
    outcomes = convert_all(preset, "all", workdir, reporter=reporter, force=True)
    made = [outcome.artifact for outcome in outcomes if outcome.artifact is not None]
    told: dict[tuple[str, str], list[str]] = {}
    for artifact in made:
        for sampler, text in _stories(artifact):
            told.setdefault((sampler, text), []).append(artifact.manifest.target)
    return outcomes, [Told(sampler, text, tuple(names)) for (sampler, text), names in sorted(told.items(), key=_in_order)]


def _stories(artifact: Artifact) -> Sequence[tuple[str, str]]:
    """(sampler, text) for each prompt."""
    samplers = (runtime.samplers.GreedySampler(), runtime.samplers.TopKSampler(k=5, seed=SEED))
    stories = []
    with runtime.load(artifact.directory) as model:
        for prompt, sampler in zip(PROMPTS, samplers, strict=True):
            model.compile(sampler=sampler)
            stories.append((type(sampler).__name__, str(model.generate(prompt, max_length=NEW_TOKENS))))
    return stories


def _in_order(item: tuple[tuple[str, str], list[str]]) -> str:
    return item[0][0]
