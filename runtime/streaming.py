"""Text while it is being generated: pieces that concatenate to exactly the text of all ids, never a character that later changes.

A character may be spread over several ids. What an id prints may be said as soon as no later id can change it, which depends on how the
tokenizer's file decodes:

- byte level, and vocabularies of byte strings: every id is some bytes, and the bytes are UTF-8 text; only an unfinished character is held back;
- pieces, with bytes as fallback: an id prints the same anywhere but at the start, where a space may be stripped, and in a run of byte ids;
- anything else: nothing is certain before the end, and all text comes then.

Each id is decoded a bounded number of times, so a stream costs time in proportion to its length.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Protocol

from kexport.runtime.piece_decoder import REPLACEMENT
from kexport.runtime.tokenizer import ByteCodec, Tokenizer

_PIECE_DECODERS = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
_BYTES = 256
_UNDECIDED_BYTES = 3  # a character of four bytes may still lack its last one


class TextStream(Protocol):
    """Ids in, text out."""

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain after these further ids and was not given before."""

    def end(self) -> str:
        """The rest: no further id comes."""


def text_stream(tokenizer: Tokenizer) -> TextStream:
    """The stream that suits how the tokenizer's file decodes. Stripped ids are dropped on the way."""
    if isinstance(tokenizer.codec, ByteCodec):
        return _ByteStream(tokenizer, tokenizer.codec.token_bytes)
    rules, types = tokenizer.record.piece_decoder, tokenizer.codec.decoder_types
    if rules is None and types == ("ByteLevel",):
        return _ByteStream(tokenizer, lambda identifier: _spelled_bytes(tokenizer.codec.piece(identifier)))
    if rules is None and not (types and _PIECE_DECODERS.issuperset(types)):
        return _WholeText(tokenizer)
    byte_ids = _byte_ids(tokenizer) if rules is None else frozenset(rules.byte_ids)
    anchor = _find_anchor(tokenizer, byte_ids)
    if anchor is None:
        return _WholeText(tokenizer)
    return _PieceStream(tokenizer, anchor, byte_ids, splits_byte_runs=rules is not None)


class _ByteStream:
    """Each id is some bytes, `bytes_of(id)`: decode them as they come."""

    def __init__(self, tokenizer: Tokenizer, bytes_of: Callable[[int], bytes]) -> None:
        self._tokenizer, self._bytes_of = tokenizer, bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        return self._decoder.decode(b"".join(map(self._bytes_of, self._tokenizer.visible(ids))))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class _PieceStream:
    """SentencePiece-like tokenizers: each id is decoded behind an anchor, an ordinary id that keeps it from being the first one.

    `splits_byte_runs`: broken bytes print one by one, so that a run of byte ids may be said in parts; else the whole run must be known.
    """

    def __init__(self, tokenizer: Tokenizer, anchor: int, byte_ids: frozenset[int], *, splits_byte_runs: bool) -> None:
        self._tokenizer, self._byte_ids, self._splits_byte_runs = tokenizer, byte_ids, splits_byte_runs
        self._anchor = anchor
        self._anchor_text = tokenizer.codec.decode([anchor])
        self._opening: list[int] | None = []  # the ids so far, while all of them together print nothing
        self._byte_run: list[int] = []

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(self._next(identifier) for identifier in self._tokenizer.visible(ids))

    def end(self) -> str:
        return self._take_byte_run()

    def _next(self, identifier: int) -> str:
        if identifier in self._byte_ids:
            self._byte_run.append(identifier)
            return self._certain_of_byte_run() if self._splits_byte_runs else ""
        return self._take_byte_run() + self._print([identifier])

    def _print(self, ids: list[int]) -> str:
        """What these ids print behind all that came before."""
        if self._opening is None:
            return self._print_inside(ids)
        self._opening += ids
        text = self._tokenizer.codec.decode(self._opening)
        if text:
            self._opening = None
        elif self._starts_anew():
            self._opening.clear()
        return text

    def _starts_anew(self) -> bool:
        """Whether ids that printed nothing leave no trace: all spaces at the start are stripped, however many."""
        rules = self._tokenizer.record.piece_decoder
        return rules is not None and rules.leading_space == "strip-all" and bool(rules.unknown_surface)

    def _print_inside(self, ids: list[int]) -> str:
        """What these ids print where they are not the first ones."""
        return self._tokenizer.codec.decode([self._anchor, *ids])[len(self._anchor_text) :]

    def _take_byte_run(self) -> str:
        run, self._byte_run = self._byte_run, []
        return self._print(run) if run else ""

    def _certain_of_byte_run(self) -> str:
        """Print the bytes that no further byte can change: all, or all but those of an unfinished character."""
        text = self._print_inside(self._byte_run)
        undecided = 0
        while undecided < min(len(text), _UNDECIDED_BYTES) and text[-1 - undecided] == REPLACEMENT:
            undecided += 1
        certain = self._byte_run[: len(self._byte_run) - undecided]
        if not certain:
            return ""
        self._byte_run = self._byte_run[len(certain) :]
        return self._print(certain)


class _WholeText:
    """A decoder that nothing is known about: all text at the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def feed(self, ids: Iterable[int]) -> str:
        self._ids += ids
        return ""

    def end(self) -> str:
        return self._tokenizer.decode(self._ids)


def _find_anchor(tokenizer: Tokenizer, byte_ids: frozenset[int]) -> int | None:
    """An ordinary id whose piece prints as it is spelled; None in a vocabulary of symbols only."""
    special = set(tokenizer.record.special_tokens.values()) | set(tokenizer.record.stripped_ids) | byte_ids
    for identifier in range(tokenizer.record.vocabulary_size):
        piece = tokenizer.codec.piece(identifier)
        if identifier not in special and piece.isalnum() and tokenizer.codec.decode([identifier]) == piece:
            return identifier
    return None


def _byte_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of the byte pieces `<0x00>` to `<0xFF>`."""
    spellings = {f"<0x{value:02X}>" for value in range(_BYTES)}
    return frozenset(i for i in range(tokenizer.record.vocabulary_size) if tokenizer.codec.piece(i) in spellings)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's spelling of bytes: printable Latin-1 characters stand for themselves, the others for U+0100 and on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(_BYTES) if value not in printable]
    return {chr(value): value for value in printable} | {chr(_BYTES + place): value for place, value in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _spelled_bytes(piece: str) -> bytes:
    """The bytes a piece stands for; a piece with a character outside the byte alphabet (an added token) stands for its own text."""
    if all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return piece.encode("utf-8")
