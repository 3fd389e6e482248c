"""Progress of long work: stages with a total, told to a reporter that is passed in. Everything goes to standard error.

    with reporter.stage("write weights", total=weight_bytes, unit="bytes") as stage:
        for tensor in tensors:
            stage.advance(tensor.nbytes)

`reporter_for(quiet=...)` picks the reporter: a bar on a terminal, plain lines elsewhere, nothing when quiet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

Unit = Literal["bytes", "steps"]

_BYTES_PER_MEGABYTE = 1_000_000
_SECONDS_BETWEEN_LINES = 10.0


class Stage(Protocol):
    """One stage of the work, open until its `with` block ends."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more bytes or steps are done."""


class Reporter(Protocol):
    """Who is told about the work."""

    def stage(self, name: str, total: int | None = None, unit: Unit = "steps") -> AbstractContextManager[Stage]:
        """Open a stage; `total` in `unit`, None where it is not known beforehand."""

    def note(self, message: str) -> None:
        """One line for the user to know."""

    def warn(self, message: str) -> None:
        """One line for the user to act on or to be careful about."""


class _SilentStage:
    def advance(self, amount: int = 1) -> None:
        """Nothing to tell."""


class SilentReporter:
    """Tells nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: Unit = "steps") -> Iterator[Stage]:
        yield _SilentStage()

    def note(self, message: str) -> None:
        """Nothing to tell."""

    def warn(self, message: str) -> None:
        """Nothing to tell."""


class _LineStage:
    def __init__(self, reporter: LineReporter, name: str, total: int | None, unit: Unit) -> None:
        self._reporter, self._name, self._total, self._unit = reporter, name, total, unit
        self._done = 0
        self._last_line = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._reporter.note(f"{self._name}: {_amount(self._done, self._total, self._unit)}")


class LineReporter:
    """One plain line when a stage starts and ends, and one every ten seconds between: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: Unit = "steps") -> Iterator[Stage]:
        started = time.monotonic()
        self.note(f"{name} ...")
        yield _LineStage(self, name, total, unit)
        self.note(f"{name}: done in {time.monotonic() - started:.1f} s")

    def note(self, message: str) -> None:
        stream = self._stream or sys.stderr  # looked up late: a caller may have redirected it
        stream.write(f"{message}\n")
        stream.flush()

    def warn(self, message: str) -> None:
        self.note(f"warning: {message}")


class _BarStage:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1) -> None:
        self._progress.advance(self._task, amount)


class BarReporter:
    """A bar per stage on a terminal. Stages do not nest."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: Unit = "steps") -> Iterator[Stage]:
        counter: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), counter, TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield _BarStage(progress, progress.add_task(name, total=total))

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def reporter_for(*, quiet: bool = False) -> Reporter:
    """The reporter that suits standard error: silent when `quiet`, a bar on a terminal, plain lines otherwise."""
    if quiet:
        return SilentReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()


def _amount(done: int, total: int | None, unit: Unit) -> str:
    """`done` of `total` for people: megabytes or plain steps."""
    if unit == "bytes":
        of_total = "" if total is None else f" of {total / _BYTES_PER_MEGABYTE:.0f}"
        return f"{done / _BYTES_PER_MEGABYTE:.0f}{of_total} MB"
    return f"{done} steps" if total is None else f"{done} of {total} steps"
