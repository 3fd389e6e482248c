"""Run a command and report how much memory it and its children took.

    python benchmarks/measure_memory.py kexport convert PRESET --target onnx -o OUT

Two figures, because a mapped file counts in one and not in the other:

- *anonymous*: memory that only a swap file could take back: heaps, stacks, written copies. What a machine must really have.
- *RSS*: all resident pages, mapped files too. The kernel may drop those at any time, so a run that maps a 4 GB file "takes" up to 4 GB of them.

Sampled every 10 ms over the whole process tree (`/proc/<pid>/status`), so a peak shorter than that can be missed; `max_rss_mb` cannot miss one: it is
the kernel's own high-water mark (`ru_maxrss`), of the largest single process. The command's output goes to standard error, the JSON to standard
output; the exit code is the command's. Linux only. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

MEGABYTE = 1_000_000
KIBIBYTE = 1024  # the unit of /proc/<pid>/status and of ru_maxrss
INTERVAL_SECONDS = 0.01
FIELDS = {"RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}


@dataclass(frozen=True)
class Usage:
    """Resident bytes at one moment, by kind."""

    anonymous: int = 0
    file: int = 0
    shared: int = 0

    @property
    def total(self) -> int:
        """Return all resident bytes."""
        return self.anonymous + self.file + self.shared

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.anonymous + other.anonymous, self.file + other.file, self.shared + other.shared)


@dataclass(frozen=True)
class Report:
    """What a command took. Peaks are over the whole tree; `max_rss_mb` is of the largest process."""

    command: list[str]
    exit_code: int
    seconds: float
    samples: int
    peak_anonymous_mb: float
    peak_rss_mb: float
    max_rss_mb: float


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--interval", default=INTERVAL_SECONDS, show_default=True, help="Seconds between two samples.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(interval: float, command: tuple[str, ...]) -> None:
    """Run COMMAND and report its peak memory as JSON."""
    report = measure(command, interval)
    click.echo(json.dumps(asdict(report), indent=2))
    sys.exit(report.exit_code)


def measure(command: Sequence[str], interval: float = INTERVAL_SECONDS) -> Report:
    """Run `command` to its end and return its report. Raises `OSError` if it cannot be started.

    The kernel lets a new process begin with its parent's `ru_maxrss`, so call this from a small process, as the command line is: `max_rss_mb` is
    never below the caller's own RSS.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    anonymous = total = samples = 0
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        usage = tree_usage(process.pid)
        anonymous, total, samples = max(anonymous, usage.anonymous), max(total, usage.total), samples + 1
        time.sleep(interval)
    _, status, usage_at_end = ended  # of this command alone; getrusage(RUSAGE_CHILDREN) would add up every child there ever was
    process.returncode = os.waitstatus_to_exitcode(status)
    return Report(
        command=list(command),
        exit_code=exit_code(process.returncode),
        seconds=round(time.monotonic() - started, 2),
        samples=samples,
        peak_anonymous_mb=anonymous / MEGABYTE,
        peak_rss_mb=total / MEGABYTE,
        max_rss_mb=usage_at_end.ru_maxrss * KIBIBYTE / MEGABYTE,
    )


def exit_code(returncode: int) -> int:
    """Return the code a shell would give: 128 + the signal's number for a killed process."""
    signalled = 128
    return signalled - returncode if returncode < 0 else returncode


def tree_usage(root: int) -> Usage:
    """Return the resident bytes of process `root` and all its living descendants."""
    return sum((process_usage(pid) for pid in tree(root)), Usage())


def tree(root: int) -> Iterator[int]:
    """Yield `root` and its descendants; those that have just ended are left out."""
    yield root
    for listing in Path(f"/proc/{root}/task").glob("*/children"):
        for child in read_or_nothing(listing).split():
            yield from tree(int(child))


def process_usage(pid: int) -> Usage:
    """Return the resident bytes of one process; none if it has ended."""
    values = {}
    for line in read_or_nothing(Path(f"/proc/{pid}/status")).splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS:
            values[FIELDS[name]] = int(value.split()[0]) * KIBIBYTE
    return Usage(**values)


def read_or_nothing(path: Path) -> str:
    """Return the text of a /proc file, or nothing when its process has ended between two looks."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    main()
