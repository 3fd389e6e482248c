"""What a user sees of errors: one code, one sentence, one way out, on standard error; never a traceback, always the right exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from kexport.converter import cli as command_line
from kexport.runtime.contract.errors import (
    InternalError,
    InvalidInputError,
    KexportError,
    ParityError,
    ResourceError,
    UnsupportedError,
    UsageError,
)

from .conftest import Run

ERROR_LINE = re.compile(r"^error\[KX\d{3}\]: .+$", re.MULTILINE)


class OneCommand(command_line.CommandFolder):
    """A group whose only command does what the test says."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("one", params=command_line._everywhere())
        self.error = error

    def list_commands(self, context: click.Context) -> list[str]:
        return ["fail"]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        def fail() -> None:
            raise self.error

        return click.Command("fail", callback=fail, params=command_line._everywhere())


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (InternalError("KX903", "a"), 1), (UsageError("KX100", "a"), 2), (ParityError("KX301", "a"), 3), (UnsupportedError("KX201", "a"), 4),
        (InvalidInputError("KX501", "a"), 5), (ResourceError("KX601", "a"), 6), (MemoryError(), 6), (KeyboardInterrupt(), 130),
        (ZeroDivisionError("a"), 1), (OSError(28, "no space"), 6), (OSError(13, "denied"), 1),
    ],
)  # fmt: skip
def test_exit_codes(error: BaseException, exit_code: int) -> None:
    """Every kind of failure has the exit code of the contract, and leaves standard output empty."""
    result = CliRunner().invoke(OneCommand(error), ["fail"])
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr


def test_message_hint_and_detail() -> None:
    """The message and the hint are shown; detail and traceback with --debug only, before or after the command."""
    error = UnsupportedError("KX204", "cannot do `x`", hint="do `y`", detail="the long story")
    plain = CliRunner().invoke(OneCommand(error), ["fail"])
    assert plain.stderr == "error[KX204]: cannot do `x`\nhint: do `y`\n"
    for arguments in (["--debug", "fail"], ["fail", "--debug"]):
        debugged = CliRunner().invoke(OneCommand(error), arguments)
        assert debugged.exit_code == UnsupportedError.exit_code
        assert "the long story" in debugged.stderr
        assert "Traceback" in debugged.stderr


def test_a_bug_is_called_one() -> None:
    """An exception that nobody foresaw is KX900, without a traceback, and says how to report it."""
    result = CliRunner().invoke(OneCommand(RuntimeError("boom")), ["fail"])
    assert result.exit_code == KexportError.exit_code
    assert "error[KX900]: internal error: RuntimeError: boom" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("inspect",),
        ("inspect", "--nonsense", "x"),
        ("generate", "x", "y", "--max-length", "many"),
        ("bench", "x", "--rounds", "0"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    """Words that do not fit exit with 2 and point to the command's own help."""
    result = run(*arguments)
    assert result.exit_code == UsageError.exit_code
    assert ERROR_LINE.search(result.stderr)
    assert "hint: see `kexport" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["inspect", "bench", "generate"])
def test_no_artifact(run: Run, tmp_path: Path, command: str) -> None:
    """A directory that is not there, or holds something else, exits with 5."""
    extra = ["--token-ids", "1"] if command == "generate" else []
    for directory in (tmp_path / "nothing", tmp_path):
        result = run(command, directory, *extra)
        assert result.exit_code == InvalidInputError.exit_code
        assert "error[KX501]" in result.stderr
        assert result.stdout == ""


def test_colour() -> None:
    """NO_COLOR leaves no escape sequence, even on a terminal."""
    error = UsageError("KX100", "a", hint="b")
    coloured = CliRunner().invoke(OneCommand(error), ["fail"], color=True, env={"NO_COLOR": ""})
    assert "\x1b[" in coloured.stderr
    plain = CliRunner().invoke(OneCommand(error), ["fail"], color=True, env={"NO_COLOR": "1"})
    assert "\x1b[" not in plain.stderr


def test_a_real_process(tmp_path: Path) -> None:
    """The console script gives the same: exit code 5, an empty standard output, two lines of standard error."""
    done = subprocess.run([sys.executable, "-m", "kexport.converter", "inspect", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == InvalidInputError.exit_code
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error[KX501]", "hint"]


def test_a_reader_that_stops_reading(decoder: Path) -> None:
    """`kexport inspect X --json | head -1` ends without a complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "kexport.converter", "inspect", str(decoder), "--json"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == command_line.EXIT_BROKEN_PIPE
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(decoder: Path, number: int) -> None:
    """A run that is interrupted or terminated exits with 130 and no traceback. (A shell's background jobs ignore interrupts, and hand that on.)"""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "kexport.converter", "generate", str(decoder), "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_until_reading(process.pid)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.strip() == "interrupted"


def _wait_until_reading(pid: int) -> None:
    """Until the process has imported what it needs and sleeps, which it does only in its read of standard input."""
    deadline, calm = time.monotonic() + 60, 0
    while calm < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        asleep = "State:\tS" in Path(f"/proc/{pid}/status").read_text() and "numpy" in Path(f"/proc/{pid}/maps").read_text()
        calm = calm + 1 if asleep else 0
