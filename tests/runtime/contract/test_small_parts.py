"""Element types, and progress on standard error."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from kexport.runtime.contract.dtypes import byte_size, item_size, name_of, numpy_dtype
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.progress import BarReporter, LineReporter, SilentReporter, reporter_for
from rich.console import Console

NAMES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_numpys(name: str) -> None:
    """A name, its size and its numpy type belong together, both ways."""
    assert numpy_dtype(name).itemsize == item_size(name)
    assert name_of(numpy_dtype(name)) == name


def test_packed_types_and_unknown_names() -> None:
    """Half bytes are packed; a name that is none is refused."""
    assert [byte_size("int4", count) for count in (0, 1, 2, 3)] == [0, 1, 1, 2]
    for call in (item_size, numpy_dtype):
        with pytest.raises(InvalidInputError, match="KX509"):
            call("float33")
    with pytest.raises(InvalidInputError, match="KX509"):
        name_of(np.complex64)


def test_contract_needs_no_numpy() -> None:
    """A core-only install has neither numpy nor an engine, and still reads manifests."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['numpy', 'ml_dtypes', 'onnxruntime', 'tokenizers', 'psutil'])); "
        "import kexport.runtime, kexport.runtime.contract.dtypes, kexport.runtime.contract.files, kexport.runtime.contract.manifest_io, "
        "kexport.runtime.contract.progress as p, kexport.runtime.contract.names; "
        "from kexport.runtime.contract.errors import UnsupportedError\n"
        "try: kexport.runtime.load\n"
        "except UnsupportedError as error: print(error.code, error.hint)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == 'KX511 pip install "kexport[onnx]"\n'


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: plain lines on standard error, nothing on standard output."""
    reporter = reporter_for()
    assert isinstance(reporter, LineReporter)
    with reporter.stage("write weights", total=10, unit="bytes") as stage:
        stage.advance(10)
    reporter.note("[a note]")
    reporter.warn("careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "write weights ..."
    assert lines[1].startswith("write weights: done in ")
    assert lines[2:] == ["[a note]", "warning: careful"]


def test_lines_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stage says how far it is."""
    monkeypatch.setattr("kexport.runtime.contract.progress._SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    with LineReporter(stream).stage("hash", total=4_000_000, unit="bytes") as stage:
        stage.advance(1_000_000)
    with LineReporter(stream).stage("cases", total=3) as stage:
        stage.advance()
    assert "hash: 1 of 4 MB\n" in stream.getvalue()
    assert "cases: 1 of 3 steps\n" in stream.getvalue()


def test_bar() -> None:
    """On a terminal: a bar; brackets in a message are not markup."""
    stream = io.StringIO()
    reporter = BarReporter(Console(file=stream, force_terminal=True, width=100))
    with reporter.stage("stage [1]", total=2) as stage:
        stage.advance(2)
    reporter.note("[bold]")
    assert "stage [1]" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "[bold]" in stream.getvalue()


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet is silent."""
    reporter = reporter_for(quiet=True)
    assert isinstance(reporter, SilentReporter)
    with reporter.stage("x", total=1) as stage:
        stage.advance()
    reporter.note("x")
    reporter.warn("x")
    assert capsys.readouterr() == ("", "")
