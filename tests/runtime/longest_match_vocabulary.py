"""A small vocabulary file of byte strings: every byte, some words, and parts of characters. No Keras."""

from __future__ import annotations

WORDS = (" the", "the", "ing", " a", "hello", "Hello", " quick", " brown", "\n\n", "    ", "日本", "é", " é", "'", '"', "it's \"so\"")
PARTS = (b"\xe6\x97", b"\xf0\x9f", b" \xe6")
TOKENS = (*(bytes([value]) for value in range(256)), *(word.encode() for word in WORDS), *PARTS)
FIRST_ID = 1


def lines() -> list[str]:
    """The file's lines, with their ends."""
    return [f"{identifier} {_literal(token)} {len(token)}\n" for identifier, token in enumerate(TOKENS, start=FIRST_ID)]


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)
