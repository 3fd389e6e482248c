r"""Tokenizing by the longest known piece of bytes, over a vocabulary file of lines `<id> <literal> <number of bytes>`.

The literal is a Python string or bytes literal, as `repr` prints it: `257 ' the' 4`, `130 b'\x81' 1`. The file is data from outside: a line must be
exactly that, each literal is one quoted string, and sizes are bounded, so that nothing in it is ever run.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping

LONGEST_FILE = 64 << 20
LONGEST_LINE = 8192
MOST_TOKENS = 1 << 20
LARGEST_ID = 2**31 - 1
_LINE = re.compile(r"""(\d{1,10}) ([bB]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")) (\d{1,5})""")
_START = 2  # candidates are kept by their first bytes, this many where a token has them


class LongestMatch:
    """`tokens`: id -> bytes. Where two ids have the same bytes the later one is given."""

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self.tokens = dict(tokens)
        self._ids = {token: identifier for identifier, token in tokens.items()}
        lengths: dict[bytes, set[int]] = {}
        for token in filter(None, self._ids):
            lengths.setdefault(token[:_START], set()).add(len(token))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}

    def encode(self, data: bytes) -> list[int]:
        """At each place the longest token that follows. Raises ValueError where none does, naming the byte."""
        ids: list[int] = []
        place = 0
        while place < len(data):
            ids.append(self._longest_at(data, place))
            place += len(self.tokens[ids[-1]])
        return ids

    def _longest_at(self, data: bytes, place: int) -> int:
        for start in (data[place : place + _START], data[place : place + 1]):
            for length in self._lengths.get(start, ()):
                found = self._ids.get(data[place : place + length])
                if found is not None:
                    return found
        raise ValueError(f"no token begins with the byte 0x{data[place]:02X}")


def read_vocabulary(text: str) -> dict[int, bytes]:
    """The tokens of a vocabulary file. Raises ValueError, naming the line, for anything but such a file."""
    if len(text) > LONGEST_FILE:
        raise ValueError(f"it has {len(text)} characters; {LONGEST_FILE} are the most")
    lines = text.removesuffix("\n").split("\n")  # not splitlines(): a literal may hold other line ends
    if len(lines) > MOST_TOKENS:
        raise ValueError(f"it has {len(lines)} lines; {MOST_TOKENS} are the most")
    return dict(_read_line(number, line) for number, line in enumerate(lines, start=1))


def _read_line(number: int, line: str) -> tuple[int, bytes]:
    found = _LINE.fullmatch(line) if len(line) <= LONGEST_LINE else None
    if found is None:
        raise ValueError(f"line {number} is not `<id> <literal> <number of bytes>`")
    identifier, length = int(found[1]), int(found[3])
    token = _read_literal(number, found[2])
    if len(token) != length:
        raise ValueError(f"line {number} says {length} bytes; its literal has {len(token)}")
    if identifier > LARGEST_ID:
        raise ValueError(f"line {number} has the id {identifier}; {LARGEST_ID} is the largest")
    return identifier, token


def _read_literal(number: int, literal: str) -> bytes:
    """The bytes of one quoted literal, which the line's pattern has made sure it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know stays as it is, with a warning
            value: str | bytes = ast.literal_eval(literal)
        return value.encode("utf-8") if isinstance(value, str) else value
    except (ValueError, SyntaxError) as error:  # UnicodeEncodeError, too: half a surrogate pair
        raise ValueError(f"line {number}: {error}") from error
