"""What every rival does: load, then turn a prompt into tokens while a clock notes when each came."""

from __future__ import annotations

import importlib.util
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PRESET = "preset"  # the `runs_on` of rivals that take the KerasHub preset itself


@dataclass(frozen=True)
class Stamp:
    """A moment: seconds of the wall clock and of this process's processor time."""

    wall: float
    processor: float


class Clock:
    """Notes the moment of each token, from its own making on."""

    def __init__(self) -> None:
        self.ticks: list[Stamp] = []
        self.start = self._now()

    def tick(self) -> None:
        """A token has become known."""
        self.ticks.append(self._now())

    def stop(self) -> Stamp:
        """The time since the start."""
        now = self._now()
        return Stamp(now.wall - self.start.wall, now.processor - self.start.processor)

    @staticmethod
    def _now() -> Stamp:
        return Stamp(time.perf_counter(), time.process_time())


class Rival(ABC):
    """One way of running the model: a runtime and how it is set up.

    `label`: as a table shows it. `runs_on`: the target whose artifacts it takes, None for every target's, `PRESET` for the KerasHub preset.
    `streams`: it ticks the clock at every token; otherwise its time per token is the difference of a long and a short run.
    `libraries`: what must be installed. `remark`: what a reader must know of its figures.
    """

    label: str
    runs_on: str | None
    streams: bool = True
    libraries: tuple[str, ...] = ()
    remark: str = ""

    def why_not(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else ""

    def prepare(self, source: Path, workdir: Path) -> Path:
        """What `load` is to open, made of the artifact or preset `source` if need be. Runs once, before all rounds."""
        return source

    @abstractmethod
    def import_libraries(self, target: str) -> None:
        """Import everything that loading needs, for an artifact of `target`."""

    @abstractmethod
    def load(self, place: Path, *, threads: int) -> None:
        """Open what `prepare` gave, on so many CPU threads."""

    @abstractmethod
    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        """The `new_tokens` greedy tokens behind `prompt`, whatever stop ids there are, one row.

        `length`: how many positions prompts and new tokens of this visit take at most, for those that fix buffers once.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to give back before their process ends
        """Give everything back."""
