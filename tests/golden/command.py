"""The command line of the scripts that write golden files: which files, and whether they are written or checked."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def part_of(names: list[str], part: str, parts: int) -> list[str]:
    """Every n-th name from the i-th, for `i/n` (i from 0); `commit` takes the number of commits for i, and `parts` for n."""
    if part == "commit":
        counted = subprocess.run(["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        part = f"{int(counted.stdout) % parts}/{parts}"
    index, count = map(int, part.split("/"))
    return names[index % count :: count]


def run(description: str, known: Sequence[str], parts: int, write: Callable[[str], str], check: Callable[[str], str]) -> None:
    """Write or check files by name, a line each, and exit. `write` gives what to say of a file; `check` what differs in it, empty where nothing
    does. Exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", help="models; all by default")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--part", default="0/1", help="i/n, or `commit`")
    arguments = parser.parse_args()
    failed = False
    for name in part_of(arguments.names or list(known), arguments.part, parts):
        found = check(name) if arguments.check else ""
        failed |= bool(found)
        said = found or ("equal" if arguments.check else write(name))
        sys.stdout.write(f"{name}: {said}\n")
        sys.stdout.flush()
    raise SystemExit(failed)
