"""The command line starts fast and light: a core-only install has neither numpy nor an engine."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from kexport.converter.cli import cli
from kexport.runtime.contract.version import __version__

from .conftest import Run

HEAVY = ("keras", "keras_hub", "numpy", "onnx", "onnx_ir", "onnxruntime", "tensorflow", "tokenizers")
SECONDS = 0.5
TRIES = 5


def commands() -> list[str]:
    """All commands by their files."""
    return cli.list_commands(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_fast(arguments: list[str]) -> None:
    """`kexport --help` and `--version` take less than half a second (the best of a few: the machine may be busy)."""
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kexport.converter", *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < SECONDS


def test_help_imports_nothing_heavy() -> None:
    """The help of kexport and of each command imports no numpy, no engine, no Keras."""
    program = f"""
import sys
from click.testing import CliRunner
from kexport.converter.cli import cli
for arguments in [[], *([name] for name in {commands()!r})]:
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0, arguments
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["inspect", "list", "doctor"])
def test_core_commands_import_nothing_heavy(command: str, decoder: object) -> None:
    """`inspect`, `list` and `doctor` run without numpy and without an engine."""
    arguments = [command, str(decoder)] if command == "inspect" else [command]
    program = f"""
import sys
from click.testing import CliRunner
from kexport.converter.cli import cli
result = CliRunner().invoke(cli, {arguments!r})
assert result.exit_code == 0, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_are_files(run: Run) -> None:
    """Every command of the contract is there, with a line in the help."""
    expected = {"bench", "convert", "demo", "doctor", "generate", "inspect", "list", "plan", "verify"}
    assert expected <= set(commands())
    help_text = run("--help").stdout
    assert all(f"\n  {name}" in help_text for name in expected)


@pytest.mark.parametrize("command", ["", *sorted({"inspect", "generate", "convert", "list"})])
def test_version_everywhere(run: Run, command: str) -> None:
    """`--version` is understood with and without a command."""
    result = run(*([command] if command else []), "--version")
    assert result.exit_code == 0
    assert result.stdout == f"kexport {__version__}\n"


def test_unbuilt_options_are_hidden(run: Run) -> None:
    """What is not built yet is not in the help, and exits with 4."""
    result = run("convert", "x", "-o", "y", "--weights", "int8")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "error[KX206]" in result.stderr
