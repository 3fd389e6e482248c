"""Rounds: A B C, A B C, ... each visit a fresh process, its anonymous memory watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import measure_memory
from visit import Task, Visit

from comparison.contestants import Contestant

VISIT = Path(__file__).parents[1] / "visit.py"
SAMPLE_SECONDS = 0.01
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}  # the bandwidth probe makes its own threads
LAST_WORDS = 1500  # characters of a failed visit's output that are kept


@dataclass(frozen=True)
class Result:
    """A visit of a contestant in round `number`. `peak_anonymous_mb`: sampled, so a very short peak can be missed."""

    number: int
    visit: Visit
    peak_anonymous_mb: float


@dataclass(frozen=True)
class Outcome:
    """All of a contestant's rounds, or why they ended."""

    contestant: Contestant
    results: tuple[Result, ...]
    error: str = ""


class VisitFailed(Exception):
    """A visit ended without figures; the message holds its last words."""


def run_rounds(
    everyone: Sequence[Contestant], rounds: int, make_task: Callable[[Contestant], Task], logs: Path, note: Callable[[str], None]
) -> list[Outcome]:
    """All rounds. A contestant that fails is left out of the rounds that follow; the others go on."""
    logs.mkdir(parents=True, exist_ok=True)
    results: dict[Contestant, list[Result]] = {one: [] for one in everyone}
    errors = {one: one.why_not for one in everyone}
    for number in range(1, rounds + 1):
        for one in everyone:
            if errors[one]:
                continue
            started = time.monotonic()
            try:
                result = visit(make_task(one), number, logs / f"{number}-{one.target}-{one.rival}.txt")
            except VisitFailed as error:
                errors[one] = str(error)
                note(f"round {number}: {one.target}: {one.label} failed: {error}")
                continue
            results[one].append(result)
            seconds = time.monotonic() - started
            note(f"round {number}/{rounds}: {one.target}: {one.label}: {result.visit.ms_per_token:.1f} ms/token ({seconds:.0f} s)")
    return [Outcome(one, tuple(results[one]), errors[one]) for one in everyone]


def visit(task: Task, number: int, log: Path) -> Result:
    """One visit. Raises VisitFailed if its process ends without figures."""
    command = [sys.executable, str(VISIT), json.dumps(asdict(task))]
    with (
        log.open("w", encoding="utf-8") as words,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, env=os.environ | ONE_BLAS_THREAD) as process,
    ):
        try:
            assert process.stdout is not None
            answer = _read(process.stdout)
            with _watched(process.pid) as peak:
                if answer == {"mark": "begin"}:
                    answer = _read(process.stdout)
            if answer == {"mark": "end"}:
                answer = _read(process.stdout)
        except BaseException:
            process.kill()
            raise
    if "visit" not in answer:
        last_words = log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
        raise VisitFailed(f"exit code {process.returncode}: {last_words.splitlines()[-1] if last_words else 'no word'}")
    figures = answer["visit"]
    figures.update(bandwidths=tuple(figures["bandwidths"]), tokens=tuple(figures["tokens"]))
    return Result(number, Visit(**figures), peak[0] / measure_memory.MEGABYTE)


def _read(stream: IO[str]) -> dict[str, Any]:
    line = stream.readline()
    answer: dict[str, Any] = json.loads(line) if line else {}
    return answer


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """While the block runs, the first entry of the list given is the peak of the process's anonymous bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], measure_memory.process_usage(pid).anonymous)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
