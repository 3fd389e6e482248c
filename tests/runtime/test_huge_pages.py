"""Memory that a block takes lies on huge pages afterwards, as far as the system gives any; nothing breaks where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from kexport.runtime.huge_pages import on_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SMALL = 3 << 20  # as large as a small model's matrices, below what glibc's heap takes


def huge_kilobytes() -> int:
    """Of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("AnonHugePages:")).split()[1])


@pytest.mark.skipif(sys.platform != "linux" or "never" in SETTING.read_text(encoding="ascii").split("[")[-1][:6], reason="no huge pages on this system")
def test_blocks_that_malloc_maps_lie_on_huge_pages() -> None:
    """Nearly all of 60 MB in 3 MB blocks, with other mappings made in between: a block mapped by itself would keep small pages at both ends."""
    import ctypes
    import mmap

    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    before = huge_kilobytes()
    with on_huge_pages():
        others, blocks = [], []
        for _ in range(20):
            blocks.append(library.malloc(SMALL))
            others.append(mmap.mmap(-1, mmap.PAGESIZE))
        for block in blocks:
            ctypes.memset(block, 1, SMALL)
    gained = (huge_kilobytes() - before) * 1024
    library.free.argtypes = [ctypes.c_void_p]
    for block in blocks:
        library.free(block)
    if gained == 0:
        pytest.skip("this kernel does not collapse pages (MADV_COLLAPSE, Linux 6.1)")
    assert gained > 0.9 * 20 * SMALL


def test_an_error_in_the_block_comes_out() -> None:
    """And what the block made is still there."""
    array = np.zeros(0)
    with pytest.raises(KeyError), on_huge_pages():
        array = np.ones(SMALL)
        raise KeyError
    assert array.sum() == SMALL
