"""SentencePiece's way from ids to text, for a tokenizer that ships as a `tokenizers` file.

Encoding with such a file is exact; decoding is not, for byte pieces: where a run of bytes holds a broken character, the file's decoder
prints one U+FFFD per byte of the whole run, SentencePiece only for the broken bytes. A cut in the middle of a character is ordinary in
generation, so the rules are written out here. Rules from the published behaviour of `SentencePieceProcessor.Decode` (0.2), checked
against it at every conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kexport.runtime.contract.manifest import PieceDecoder

SPACE_SYMBOL = "\u2581"
REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4


def decode_ids(ids: Iterable[int], piece_of: Callable[[int], str], rules: PieceDecoder) -> str:
    """The text of `ids`; `piece_of` gives an id's piece (for `tokenizers`: `tokenizer.id_to_token`)."""
    byte_of = {identifier: value for value, identifier in enumerate(rules.byte_ids)}
    silent = frozenset(rules.control_ids)
    parts: list[str] = []
    run = bytearray()
    at_start = True
    for identifier in ids:
        if identifier in byte_of:
            run.append(byte_of[identifier])
            continue
        if run:
            parts.append(_characters(run))
            run.clear()
            at_start = False
        if identifier in silent:
            continue
        text, at_start = _piece_text(identifier, piece_of, rules, at_start)
        parts.append(text)
    parts.append(_characters(run))
    return "".join(parts)


def _piece_text(identifier: int, piece_of: Callable[[int], str], rules: PieceDecoder, at_start: bool) -> tuple[str, bool]:
    """The text of one piece, and whether the next one still counts as the first of the text."""
    if identifier == rules.unknown_id:
        return rules.unknown_surface, False
    piece = piece_of(identifier)
    stripped = at_start and rules.leading_space != "keep" and piece.startswith(SPACE_SYMBOL)
    if stripped:
        piece = piece[len(SPACE_SYMBOL) :]
    used_up = stripped and rules.leading_space == "strip-one"
    return piece.replace(SPACE_SYMBOL, " "), at_start and not piece and not used_up


def _characters(run: bytes | bytearray) -> str:
    """UTF-8 with one U+FFFD for every byte that does not begin a whole character."""
    try:
        return bytes(run).decode("utf-8")
    except UnicodeDecodeError:
        pass
    parts = []
    position = 0
    while position < len(run):
        character, length = _next_character(bytes(run[position : position + _LONGEST_CHARACTER]))
        parts.append(character)
        position += length
    return "".join(parts)


def _next_character(window: bytes) -> tuple[str, int]:
    for length in range(1, len(window) + 1):
        try:
            return window[:length].decode("utf-8"), length
        except UnicodeDecodeError:
            continue
    return REPLACEMENT, 1
