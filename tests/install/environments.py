"""Fresh virtual environments with a wheel of kexport and some extras: what a user gets."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """A wheel of a copy of the repository: building in place would leave its traces there."""
    copy = folder / "source"
    for name in ("converter", "graphs", "runtime", "targets"):
        _copy_sources(REPOSITORY / name, copy / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, copy)
    (wheel,) = folder.glob("kexport-*.whl")
    return wheel


def _copy_sources(source: Path, copy: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def make_environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """A virtual environment with the wheel and one of its extras; returns its `bin`."""
    venv.create(folder, with_pip=True)
    binaries = folder / "bin"
    requirement = f"{wheel}[{extra}]" if extra else str(wheel)
    run(binaries / "python", "-m", "pip", "install", "--quiet", requirement)
    return binaries


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command outside the repository, so that nothing is imported from there; shows its output when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done


def importable(binaries: Path, *names: str) -> list[str]:
    """Which of the modules can be found there."""
    program = f"import importlib.util; print([name for name in {names!r} if importlib.util.find_spec(name)])"
    found: list[str] = ast.literal_eval(run(binaries / "python", "-c", program).stdout)
    return found


def top_level_names(wheel: Path) -> set[str]:
    """What a wheel puts into site-packages, its own metadata aside."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}


def files(wheel: Path) -> set[str]:
    """All paths in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())
