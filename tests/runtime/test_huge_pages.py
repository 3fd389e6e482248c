"""Memory that a block takes lies on huge pages afterwards, as far as the system gives any; nothing breaks where it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kexport.runtime.huge_pages import on_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BLOCKS, BLOCK_BYTES = 20, 3 << 20  # as large as a small model's matrices
# A process of its own: one that has freed large blocks before would put these on the heap anyway. The mappings in between keep neighbours apart.
PROGRAM = f"""
import ctypes, mmap
from pathlib import Path
from kexport.runtime.huge_pages import on_huge_pages

def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("AnonHugePages:")).split()[1]) * 1024

library, others = ctypes.CDLL(None), []
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
before = huge()
with on_huge_pages():
    for _ in range({BLOCKS}):
        ctypes.memset(library.malloc({BLOCK_BYTES}), 1, {BLOCK_BYTES})
        others.append(mmap.mmap(-1, mmap.PAGESIZE))
print(huge() - before)
"""


@pytest.mark.skipif(not SETTING.exists() or "[never]" in SETTING.read_text(encoding="ascii"), reason="no huge pages on this system")
def test_blocks_that_malloc_maps_lie_on_huge_pages() -> None:
    """Nearly all of 60 MB: blocks mapped by themselves would keep small pages at both ends, a third of a block this size."""
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    gained = int(answer.stdout)
    if gained == 0:
        pytest.skip("this kernel does not collapse pages (MADV_COLLAPSE, Linux 6.1)")
    assert gained > 0.9 * BLOCKS * BLOCK_BYTES


def test_an_error_in_the_block_comes_out() -> None:
    """And what the block made is still there."""
    array = np.zeros(0)
    with pytest.raises(KeyError), on_huge_pages():
        array = np.ones(BLOCK_BYTES)
        raise KeyError
    assert array.sum() == BLOCK_BYTES
