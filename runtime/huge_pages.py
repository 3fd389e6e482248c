"""Put an engine's weights on huge pages.

Decoding reads every weight once a token; on 4 kB pages a good part of that time goes into address translation. Where the system gives
huge pages only to those who ask (the usual setting), libraries that allocate with malloc do not get them. Here the process asks for
them, for the memory that loading a model took. Measured on a 125M-parameter model: 8 to 10 % of a decode step. Linux only; a refusal by
the system changes nothing.

Weights that malloc maps one by one have small pages at both ends (a fifth of a model with 3 MB matrices). glibc puts blocks side by side on
its heap once a block of their size has been freed, up to 32 MB; so one such block is taken and given back first. Measured: 3 to 4 % more.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAPS = Path("/proc/self/maps")
HUGE_PAGE = 2 << 20
ADVISE_HUGE_PAGES = 14  # MADV_HUGEPAGE of madvise(2)
COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1: move what is there already onto huge pages, now
ANONYMOUS_INODE = "0"
HEAP = "[heap]"
LEAST_COLUMNS = 5
LARGEST_HEAP_BLOCK = (32 << 20) - (16 << 10)  # what glibc's threshold can rise to (M_MMAP_THRESHOLD of mallopt(3)), less its own header

Range = tuple[int, int]


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """Memory that the block allocates and keeps lies on huge pages afterwards, where the system can."""
    library = ctypes.CDLL(None) if MAPS.exists() else None
    if library is not None:
        _keep_blocks_on_the_heap(library)
    before = set(_anonymous_ranges())
    yield
    fresh = [(start, stop) for start, stop in _anonymous_ranges() if (start, stop) not in before and stop - start >= HUGE_PAGE]
    if library is None or not fresh:
        return
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, stop in fresh:
        for advice in (ADVISE_HUGE_PAGES, COLLAPSE):
            library.madvise(start, stop - start, advice)  # best effort: the return value changes nothing


def _keep_blocks_on_the_heap(library: ctypes.CDLL) -> None:
    """Raise the size from which glibc maps a block by itself: freeing one such block does it. Other C libraries are unmoved."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.free(library.malloc(LARGEST_HEAP_BLOCK))


def _anonymous_ranges() -> Iterator[Range]:
    """The writable private mappings without a file, stacks aside."""
    if not MAPS.exists():
        return
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        columns = line.split(maxsplit=LEAST_COLUMNS)
        name = columns[LEAST_COLUMNS].strip() if len(columns) > LEAST_COLUMNS else ""
        if columns[1] == "rw-p" and columns[4] == ANONYMOUS_INODE and name in ("", HEAP):
            start, stop = columns[0].split("-")
            yield int(start, 16), int(stop, 16)
