"""Make the golden files of one writer again, in a copy of the tests, and fail on any difference from the committed ones.

    python -m tests.golden.check_rewritten                 the writer whose turn it is, by the number of commits
    python -m tests.golden.check_rewritten NAME ...        these writers, for example write_sampler_golden

For the writers `write_*_golden.py`; `write_goldens.py`, of the seed models, has its own `--check`. Library versions may differ.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent
VERSIONS = ("keras", "keras_hub", "numpy", "tensorflow")


def writers() -> list[str]:
    """The names of all writers."""
    return sorted(path.stem for path in GOLDEN.glob("write_*_golden.py"))


def whose_turn() -> list[str]:
    """One writer, another with each commit."""
    commits = subprocess.run(["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, check=True, cwd=GOLDEN).stdout
    return [writers()[int(commits) % len(writers())]]


def changed_files(writer: str) -> list[str]:
    """The golden files that come out otherwise than they are committed."""
    committed = {path.name: content(path) for path in sorted(GOLDEN.glob("*.json"))}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tests"
        shutil.copytree(GOLDEN.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "-m", f"tests.golden.{writer}"], check=True, cwd=folder)
        return [name for name, document in committed.items() if document != content(copy / "golden" / name)]


def content(path: Path) -> Any:
    """A file's document without the versions of libraries."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in document.items() if key not in VERSIONS} if isinstance(document, dict) else document


def main(names: list[str]) -> int:
    """See the module."""
    failed = 0
    for name in names or whose_turn():
        changed = changed_files(name)
        sys.stdout.write(f"{name}: {', '.join(changed) + ' differ' if changed else 'equal'}\n")
        failed |= bool(changed)
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
