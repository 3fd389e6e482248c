"""Ids become text exactly as SentencePiece makes them text, broken characters and odd beginnings included."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece
from kexport.converter.tokenizers.sentence_piece import parse_model, piece_decoder
from kexport.runtime.contract.manifest import PieceDecoder
from kexport.runtime.piece_decoder import decode_ids

ROWS, LONGEST = 3_000, 12
TEXTS = [
    "hello world \u4f60\u597d caf\u00e9 \U0001f600",
    "the quick brown fox ",
    "  spaces  and\nlines",
    "12345 \u043f\u0440\u0438\u0432\u0435\u0442",
] * 10


def processor(**options: object) -> sentencepiece.SentencePieceProcessor:
    """A small BPE model."""
    writer = io.BytesIO()
    defaults = {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True, "minloglevel": 2, "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=writer, **{**defaults, **options})
    loaded = sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())
    loaded.rules = piece_decoder(parse_model(writer.getvalue()))
    return loaded


@pytest.mark.parametrize(
    "options",
    [
        {"remove_extra_whitespaces": False},
        {"remove_extra_whitespaces": False, "add_dummy_prefix": False},
        {"remove_extra_whitespaces": True},
        {"byte_fallback": False, "vocab_size": 70},
        {"user_defined_symbols": ["<turn>"], "control_symbols": ["<ctl>"], "remove_extra_whitespaces": False},
    ],
)
def test_random_ids_decode_as_sentence_piece_decodes_them(options: dict[str, object]) -> None:
    """Unknown, control, byte and ordinary pieces in every order: the same text as the original's own Decode."""
    original = processor(**options)
    source = random.Random(5)
    for _ in range(ROWS):
        row = [source.randrange(original.vocab_size()) for _ in range(source.randint(0, LONGEST))]
        assert decode_ids(row, original.IdToPiece, original.rules) == (original.Decode(row) if row else "")


def test_broken_bytes_are_replaced_one_by_one_and_whole_characters_kept() -> None:
    """A whole character before a cut one survives; every byte of the cut one becomes U+FFFD."""
    rules = PieceDecoder(byte_ids=tuple(range(256)), unknown_id=300)
    cut = "\u4f60\u597d".encode()[:-1]
    assert decode_ids(cut, str, rules) == "\u4f60\ufffd\ufffd"
    assert decode_ids(b"\xff\xe4\xbd\xa0\xf0\x9f", str, rules) == "\ufffd\u4f60\ufffd\ufffd"


def test_the_leading_space_follows_the_rule() -> None:
    """Kept, taken once, or taken until text begins."""
    pieces = ["\u2581", "\u2581a", "b"]
    rules = {kind: PieceDecoder(unknown_id=9, leading_space=kind) for kind in ("keep", "strip-one", "strip-all")}
    decoded = {kind: decode_ids([0, 1, 2], pieces.__getitem__, rule) for kind, rule in rules.items()}
    assert decoded == {"keep": "  ab", "strip-one": " ab", "strip-all": "ab"}
