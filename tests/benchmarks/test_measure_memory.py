"""The memory figures, on commands whose need is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import measure_memory

BLOCK_MB = 120
PYTHON_MB = 40  # a bare interpreter takes less
HOLD = "import time; time.sleep(0.3)"


def measured(code: str) -> measure_memory.Report:
    """Measure a Python program through the command line: a small parent, whatever this test process has loaded."""
    command = [sys.executable, measure_memory.__file__, sys.executable, "-c", code]
    return measure_memory.Report(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_allocated_bytes_are_anonymous() -> None:
    """What a program allocates and fills is in all three figures."""
    report = measured(f"block = b'x' * {BLOCK_MB * 10**6}; {HOLD}")
    assert BLOCK_MB <= report.peak_anonymous_mb <= BLOCK_MB + PYTHON_MB
    assert report.peak_rss_mb >= report.peak_anonymous_mb
    assert report.max_rss_mb >= BLOCK_MB


def test_each_command_has_its_own_high_water_mark() -> None:
    """A small command measured after a large one, by the same process, is small."""
    large, small = [sys.executable, "-c", f"block = b'x' * {BLOCK_MB * 10**6}"], [sys.executable, "-c", HOLD]
    code = f"import measure_memory as m; m.measure({large!r}); print(m.measure({small!r}).max_rss_mb)"
    folder = Path(measure_memory.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert float(done.stdout) < BLOCK_MB


def test_mapped_file_is_resident_but_not_anonymous(tmp_path: Path) -> None:
    """Reading a mapped file fills RSS and leaves the anonymous figure alone: the difference the two are for."""
    file = tmp_path / "mapped"
    file.write_bytes(b"x" * (BLOCK_MB * 10**6))
    report = measured(
        f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); m.find(b'y'); {HOLD}"
    )
    assert report.peak_anonymous_mb <= PYTHON_MB
    assert report.peak_rss_mb >= BLOCK_MB
    assert report.max_rss_mb >= BLOCK_MB


def test_children_are_counted_together() -> None:
    """Two children at once add up, and grandchildren count."""
    child = f"block = b'x' * {BLOCK_MB * 10**6}; {HOLD}"
    grandparent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    both = f"import subprocess, sys; a = [subprocess.Popen([sys.executable, '-c', c]) for c in ({child!r}, {grandparent!r})]; [p.wait() for p in a]"
    report = measured(both)
    assert report.peak_anonymous_mb >= 2 * BLOCK_MB
    assert report.max_rss_mb < 2 * BLOCK_MB


def test_command_line_keeps_stdout_clean_and_the_exit_code() -> None:
    """One JSON document on stdout, the command's own words on stderr, its exit code as ours; its options are its own."""
    script = str(Path(measure_memory.__file__))
    command = [sys.executable, script, sys.executable, "-c", "print('hello'); raise SystemExit(5)", "--interval"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert json.loads(done.stdout)["exit_code"] == 5
    assert "hello" in done.stderr
