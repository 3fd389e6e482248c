"""Keep the mapped pages of large weight files from filling memory while an artifact is compared on a machine it does not fit.

A mapped file's pages can be reclaimed at any time and come back from disk when touched. The system does that only under pressure; here
it is asked for above a bound, so that the process's resident size stays near it. The mappings are the engine's, private and writable, so
the request is one that cannot lose a change (MADV_PAGEOUT, not MADV_DONTNEED). Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAPS, STATUS = Path("/proc/self/maps"), Path("/proc/self/status")
SECONDS_BETWEEN_LOOKS = 0.05
KIBIBYTE = 1024
PAGE_OUT = 21  # MADV_PAGEOUT of madvise(2), Linux 5.4; Python's mmap module has no name for it


@contextmanager
def bounded_mappings(directory: Path, most_bytes: int) -> Iterator[None]:
    """Inside, mapped pages of the files in `directory` are reclaimed whenever the process has more than `most_bytes` of mapped pages."""
    if not MAPS.exists():
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(str(directory.resolve()), most_bytes, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(directory: str, most_bytes: int, done: threading.Event) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    while not done.wait(SECONDS_BETWEEN_LOOKS):
        if _mapped_bytes() > most_bytes:
            for start, stop in _mappings(directory):
                library.madvise(start, stop - start, PAGE_OUT)


def _mapped_bytes() -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * KIBIBYTE
    return 0


def _mappings(directory: str) -> list[tuple[int, int]]:
    """The address ranges of mappings of files below `directory`."""
    ranges = []
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(directory + "/"):
            start, stop = fields[0].split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    return ranges
