"""The proof that a written tokenizer is the original: same ids for every proof string, same text for every row of ids."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kexport.converter.tokenizers.proof_strings import SEED, proof_strings
from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.tokenizer import Tokenizer

RANDOM_ROWS = 500
LONGEST_ROW = 16
SAMPLED_PIECES = 400
_SHOWN = 60


@dataclass(frozen=True)
class Evidence:
    """What the original tokenizer answered: texts with their ids, and how many strings and rows of ids were compared."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    rows_decoded: int


def prove(tokenizer: Any, written: Tokenizer) -> Evidence:
    """Compares `written`, as the runtime opens it, with the Keras `tokenizer` it was made from.

    Decoding is compared on what the strings encode to, on rows cut in the middle (as generation cuts them), and on random ids, where the
    original has an answer.

    Raises:
        UnsupportedError: KX441, naming the first string or row of ids that differs.
    """
    texts = proof_strings(_special_tokens(tokenizer), _sampled_pieces(tokenizer))
    original = [[int(token) for token in row] for row in tokenizer.tokenize(texts)]
    for text, expected, got in zip(texts, original, written.encode(texts), strict=True):
        if expected != got:
            _refuse("encodes", text, expected, got)
    rows = list(_rows_to_decode(original, token_ids(tokenizer), frozenset(written.record.stripped_ids)))
    expected_texts = _original_texts(tokenizer, rows)
    for row, expected_text in zip(rows, expected_texts, strict=True):
        got_text = written.codec.decode(row)
        if expected_text is not None and expected_text != got_text:
            _refuse("decodes", row, expected_text, got_text)
    compared = sum(text is not None for text in expected_texts)
    return Evidence(texts=tuple(texts), ids=tuple(tuple(row) for row in original), rows_decoded=compared)


def token_ids(tokenizer: Any) -> list[int]:
    """The ids that may stand in a text: of a table of bytes (RWKV) those that it has, which begin at 1, else all below the vocabulary's size."""
    table = getattr(getattr(tokenizer, "_tokenizer", None), "idx2token", None)
    return sorted(table) if isinstance(table, dict) else list(range(tokenizer.vocabulary_size()))


def _original_texts(tokenizer: Any, rows: list[list[int]]) -> list[str | None]:
    """What the original makes of rows of ids; None where it raises, as RWKV's does for bytes that are no UTF-8."""
    try:
        return list(tokenizer.detokenize(rows))
    except UnicodeDecodeError:
        return [None] if len(rows) == 1 else [text for row in rows for text in _original_texts(tokenizer, [row])]


def _refuse(verb: str, subject: object, expected: object, got: object) -> None:
    raise UnsupportedError(
        "KX441",
        f"the exported tokenizer {verb} {_short(subject)} differently: {_short(got)} instead of the original's {_short(expected)}",
        hint=NO_TOKENIZER_HINT,
        detail=f"subject {subject!r}\nexpected {expected!r}\ngot {got!r}",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _special_tokens(tokenizer: Any) -> list[str]:
    unsplittable = getattr(tokenizer, "unsplittable_tokens", None) or []
    return sorted({str(token) for token in [*tokenizer.special_tokens, *unsplittable]})


def _sampled_pieces(tokenizer: Any) -> list[str]:
    """Text of a seeded sample of the vocabulary, so that the strings use pieces that no general text would meet."""
    ids = token_ids(tokenizer)
    sample = random.Random(SEED).sample(ids, min(SAMPLED_PIECES, len(ids)))
    return [text for text in _original_texts(tokenizer, [[identifier] for identifier in sample]) if text]


def _rows_to_decode(encoded: Sequence[Sequence[int]], ids: Sequence[int], stripped: frozenset[int]) -> Iterator[list[int]]:
    source = random.Random(SEED)
    allowed = [identifier for identifier in ids if identifier not in stripped]
    for row in encoded:
        kept = [identifier for identifier in row if identifier not in stripped]
        if kept:
            yield kept
            yield kept[: source.randint(1, len(kept))]
            yield kept[source.randint(0, len(kept) - 1) :]
    for _ in range(RANDOM_ROWS if allowed else 0):
        yield source.choices(allowed, k=source.randint(1, LONGEST_ROW))
