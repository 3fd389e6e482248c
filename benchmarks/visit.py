"""One contestant in one round, in a process of its own: called by compare.py with its task as JSON.

    bandwidth; import; load; a short run (cold: the first prompt of the process); the timed run on another prompt; bandwidth

Writes one JSON line when its memory is to be watched, one when no longer (the bandwidth probe's own array is not the contestant's), and one
with what it measured. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from kexport.converter.benchmark.bandwidth import REST_SECONDS, BandwidthProbe
from kexport.runtime.native_output import mute_at_exit
from rivals.base import Clock, Rival
from rivals.registry import rival

COLD_TOKENS = 4
ONE_TOKEN = 1
PROBES = 7
SEEDS = (7, 8)  # of the cold and the timed prompt: they differ from the first token on, so that no prefix cache helps
RESET_PEAK = "5"  # what /proc/self/clear_refs takes for "the peak of resident memory begins now"
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
KIBIBYTE, MEGABYTE = 1024, 1_000_000
MILLISECONDS = 1e3


@dataclass(frozen=True)
class Task:
    """What to measure."""

    rival: str
    target: str
    place: str
    vocabulary_size: int
    prompt_tokens: int
    new_tokens: int
    threads: int


@dataclass(frozen=True)
class Visit:
    """What was measured. Times per token are medians of the steps after the first token, or means where the rival does not stream.

    `bandwidths`: bytes per second before and after. `peak_rss_mb`: 0 where the system does not say.
    """

    import_s: float
    load_s: float
    cold_first_token_ms: float
    first_token_ms: float
    ms_per_token: float
    cpu_ms_per_token: float
    peak_rss_mb: float
    bandwidths: tuple[float, float]
    reader: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """Of one run, in milliseconds."""

    first_token: float
    per_token: float
    cpu_per_token: float
    tokens: list[int]


def measure(task: Task, out: IO[str]) -> Visit:
    """Run the whole visit."""
    before, _ = bandwidth(task.threads)
    reset_peak()
    tell(out, {"mark": "begin"})
    contestant = rival(task.rival)
    started = time.perf_counter()
    contestant.import_libraries(task.target)
    imported = time.perf_counter()
    contestant.load(Path(task.place), threads=task.threads)
    loaded = time.perf_counter()
    cold = cold_first_token(contestant, task)
    timing = (timed_by_ticks if contestant.streams else timed_by_difference)(contestant, task)
    if len(timing.tokens) != task.new_tokens:
        raise RuntimeError(f"{task.new_tokens} tokens were asked for, {len(timing.tokens)} came")
    peak = peak_resident_mb()
    tell(out, {"mark": "end"})
    time.sleep(REST_SECONDS)
    after, reader = bandwidth(task.threads)
    contestant.close()
    return Visit(
        import_s=imported - started,
        load_s=loaded - imported,
        cold_first_token_ms=cold,
        first_token_ms=timing.first_token,
        ms_per_token=timing.per_token,
        cpu_ms_per_token=timing.cpu_per_token,
        peak_rss_mb=peak,
        bandwidths=(before, after),
        reader=reader,
        tokens=tuple(timing.tokens),
    )


def bandwidth(threads: int) -> tuple[float, str]:
    """Bytes per second, the median of some probes, and how they read."""
    with BandwidthProbe(threads) as probe:
        return statistics.median(probe.measure() for _ in range(PROBES)), probe.reader


def prompt(task: Task, seed: int) -> list[int]:
    """Random ids; 0 is left out, and so is the last id, which stands in for a stop id where a runtime must have one."""
    ids = np.random.default_rng(seed).integers(1, task.vocabulary_size - 1, task.prompt_tokens)
    return [int(token) for token in ids]


def length(task: Task) -> int:
    """Positions of the timed run."""
    return task.prompt_tokens + task.new_tokens


def cold_first_token(contestant: Rival, task: Task) -> float:
    """Milliseconds to the process's very first token."""
    clock = Clock()
    contestant.run(prompt(task, SEEDS[0]), COLD_TOKENS if contestant.streams else ONE_TOKEN, length(task), clock)
    first = clock.ticks[0].wall - clock.start.wall if clock.ticks else clock.stop().wall
    return first * MILLISECONDS


def timed_by_ticks(contestant: Rival, task: Task) -> Timing:
    """A run whose every token is noted."""
    clock = Clock()
    tokens = contestant.run(prompt(task, SEEDS[1]), task.new_tokens, length(task), clock)
    if len(clock.ticks) != len(tokens):
        raise RuntimeError(f"{len(tokens)} tokens came in {len(clock.ticks)} pieces")
    pairs = list(zip(clock.ticks, clock.ticks[1:], strict=False))
    return Timing(
        first_token=(clock.ticks[0].wall - clock.start.wall) * MILLISECONDS,
        per_token=statistics.median(after.wall - before.wall for before, after in pairs) * MILLISECONDS,
        cpu_per_token=statistics.median(after.processor - before.processor for before, after in pairs) * MILLISECONDS,
        tokens=tokens,
    )


def timed_by_difference(contestant: Rival, task: Task) -> Timing:
    """A run of one token and one of all: what the others took is the difference."""
    clock = Clock()
    contestant.run(prompt(task, SEEDS[0]), ONE_TOKEN, length(task), clock)
    one, clock = clock.stop(), Clock()
    tokens = contestant.run(prompt(task, SEEDS[1]), task.new_tokens, length(task), clock)
    everything, others = clock.stop(), task.new_tokens - ONE_TOKEN
    return Timing(
        first_token=one.wall * MILLISECONDS,
        per_token=(everything.wall - one.wall) / others * MILLISECONDS,
        cpu_per_token=(everything.processor - one.processor) / others * MILLISECONDS,
        tokens=tokens,
    )


def reset_peak() -> None:
    """Let the peak of resident memory begin anew, where the system can."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")


def peak_resident_mb() -> float:
    """The peak of this process's resident memory."""
    lines = STATUS.read_text(encoding="ascii").splitlines() if STATUS.exists() else []
    found = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(found.split()[1]) * KIBIBYTE / MEGABYTE


def tell(out: IO[str], message: object) -> None:
    """One line to the parent."""
    out.write(json.dumps(message) + "\n")
    out.flush()


def main() -> None:
    """Keep the real standard output for the parent, give libraries standard error instead."""
    mute_at_exit()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        tell(out, {"visit": asdict(measure(Task(**json.loads(sys.argv[1])), out))})


if __name__ == "__main__":
    main()
