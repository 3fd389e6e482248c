"""Run the rounds of a benchmark one after the other and put their figures together."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from kexport.converter.benchmark.worker import Figures, Work
from kexport.runtime.contract import errors
from kexport.runtime.contract.progress import Reporter

_SAMPLE_SECONDS = 0.01
_BYTES_PER_MEGABYTE = 1_000_000
_KIBIBYTE = 1024
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # the bandwidth probe makes its own threads


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Report:
    """All rounds together, every figure a `Spread` over them.

    `floor_ms_per_token`: bytes a step must read / memory bandwidth, None where the artifact does not say its bytes; `fraction_of_floor`: floor /
    measured, round by round. `ms_per_token`: one step of all rows together.
    """

    work: Work
    rounds: int
    reader: str
    step_bytes: int
    ttft_ms: Spread
    ms_per_token: Spread
    cpu_ms_per_token: Spread
    bandwidth_gb_per_s: Spread
    floor_ms_per_token: Spread | None
    fraction_of_floor: Spread | None
    load_s: Spread
    peak_rss_mb: Spread
    peak_anon_mb: Spread

    def document(self) -> dict[str, Any]:
        """The report as built-in values."""
        return asdict(self)


def measure(work: Work, rounds: int, reporter: Reporter) -> Report:
    """Run `rounds` rounds. Raises KexportError as the artifact's engine does; InternalError (KX909) where a round's process dies."""
    results: list[tuple[Figures, float]] = []
    with reporter.stage("rounds", total=rounds) as stage:
        for _ in range(rounds):
            results.append(_round(work))
            stage.advance()
    figures = [figure for figure, _ in results]

    def spread(value: Callable[[Figures], float]) -> Spread:
        return spread_of([value(figure) for figure in figures])

    known = all(figure.step_bytes for figure in figures)
    return Report(
        work=work,
        rounds=rounds,
        reader=statistics.mode(figure.reader for figure in figures),
        step_bytes=figures[0].step_bytes,
        ttft_ms=spread(lambda figure: figure.ttft_ms),
        ms_per_token=spread(lambda figure: figure.ms_per_token),
        cpu_ms_per_token=spread(lambda figure: figure.cpu_ms_per_token),
        bandwidth_gb_per_s=spread(lambda figure: figure.bandwidth / 1e9),
        floor_ms_per_token=spread(floor_ms) if known else None,
        fraction_of_floor=spread(lambda figure: floor_ms(figure) / figure.ms_per_token) if known else None,
        load_s=spread(lambda figure: figure.load_s),
        peak_rss_mb=spread(lambda figure: figure.peak_rss_mb),
        peak_anon_mb=spread_of([anonymous for _, anonymous in results]),
    )


def floor_ms(figures: Figures) -> float:
    """Milliseconds in which the bytes of one step can be read at the round's own bandwidth."""
    return figures.step_bytes / figures.bandwidth * 1e3


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def _round(work: Work) -> tuple[Figures, float]:
    """One worker: its figures, and the peak of its anonymous memory in MB."""
    command = [sys.executable, "-m", "kexport.converter.benchmark.worker", json.dumps(asdict(work))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | _ONE_THREAD) as process:
        try:
            assert process.stdout is not None
            with _watched(process.pid) as peak:
                answer = _read(process.stdout)
            if answer == {"mark": "memory"}:
                answer = _read(process.stdout)
        except BaseException:
            process.kill()
            raise
    if "error" in answer:
        kind, code, message, hint, detail = answer["error"]
        raise getattr(errors, kind)(code, message, hint=hint, detail=detail)
    if "figures" not in answer:
        raise errors.InternalError("KX909", f"a benchmark round ended with exit code {process.returncode}", hint="is there enough memory?")
    return Figures(**answer["figures"]), peak[0] / _BYTES_PER_MEGABYTE


def _read(stream: IO[str]) -> dict[str, Any]:
    line = stream.readline()
    answer: dict[str, Any] = json.loads(line) if line else {}
    return answer


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """While the block runs, the first entry of the list given is the peak of the process's anonymous bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], _anonymous_bytes(pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _anonymous_bytes(pid: int) -> int:
    """Anonymous resident bytes of a process; 0 where the system does not say, or when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * _KIBIBYTE for line in lines if line.startswith("RssAnon:")), 0)
