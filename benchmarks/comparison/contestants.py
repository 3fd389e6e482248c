"""Which rivals meet on which targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rivals.base import PRESET, Rival
from rivals.kexport_runtime import OURS
from rivals.registry import all_rivals


@dataclass(frozen=True)
class Contestant:
    """A rival on a target (`PRESET`: on the KerasHub preset). `why_not`: the reason if it cannot be measured; `place`: what it opens."""

    rival: str
    target: str
    label: str
    remark: str = ""
    why_not: str = ""
    place: str = ""

    @property
    def is_ours(self) -> bool:
        """It is our own runtime."""
        return self.rival == OURS


def contestants(sources: Mapping[str, Path], workdir: Path, wanted: Sequence[str] = ()) -> list[Contestant]:
    """Everyone, ours first on each target, KerasHub last; what they open is made ready. `wanted`: only these rivals (empty: all).

    `sources`: the artifact of each target, and the preset under `PRESET`.
    """
    found = [
        _contestant(name, rival, target, source, workdir)
        for target, source in sources.items()
        for name, rival in all_rivals().items()
        if _meets(rival, target) and (not wanted or name in wanted)
    ]
    order = list(sources)
    return sorted(found, key=lambda one: (one.target == PRESET, order.index(one.target), not one.is_ours, one.rival))


def _meets(rival: Rival, target: str) -> bool:
    return rival.runs_on == target or (rival.runs_on is None and target != PRESET)


def _contestant(name: str, rival: Rival, target: str, source: Path, workdir: Path) -> Contestant:
    reason = rival.why_not()
    place = "" if reason else str(rival.prepare(source, workdir))
    return Contestant(name, target, rival.label, rival.remark, reason, place)
