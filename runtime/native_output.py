"""What native libraries print on standard error, kept from the user's terminal and at hand for an error's details.

    with captured_stderr() as words:
        ...                       # a library that logs as it likes
    words.text()                  # everything it said

The file descriptor itself is redirected, for C and C++ know nothing of `sys.stderr`; other threads' lines of that moment are taken along.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDERR = 2
MOST_BYTES_READ = 20_000
NOISY_LIBRARY = "ai_edge_litert"


def mute_at_exit() -> None:
    """Nothing goes to standard error any more once Python is done: LiteRT's libraries log while they are unloaded.

    For processes that are ours to the end; a program that merely uses the runtime keeps its standard error.
    """
    atexit.register(_mute)


def _mute() -> None:
    if NOISY_LIBRARY in sys.modules:
        with suppress(AttributeError, ValueError, OSError):
            sys.stderr.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)


class Words:
    """What was printed."""

    def __init__(self) -> None:
        self._text = ""

    def keep(self, text: str) -> None:
        """Set the text."""
        self._text = text

    def text(self) -> str:
        """The last lines printed, at most some kilobytes."""
        return self._text


@contextmanager
def captured_stderr() -> Iterator[Words]:
    """Take what is printed on standard error meanwhile."""
    words = Words()
    try:
        saved = os.dup(STDERR)
    except OSError:  # there is no standard error: nothing to keep clean
        yield words
        return
    with tempfile.TemporaryFile() as file:
        with suppress(AttributeError, ValueError, OSError):
            sys.stderr.flush()
        os.dup2(file.fileno(), STDERR)
        try:
            yield words
        finally:
            os.dup2(saved, STDERR)
            os.close(saved)
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES_READ))
            words.keep(file.read().decode(errors="replace"))
