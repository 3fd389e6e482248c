"""A byte-level tokenizer small enough for a test: three special tokens, the 256 bytes, a few merges."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PAD_ID, START_ID, END_ID = 0, 1, 2
_SPECIAL = ["<pad>", "<s>", "</s>"]
_MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("s", "a"), ("sa", "y")]


def build() -> Tokenizer:
    """The tokenizer object."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*_SPECIAL, *alphabet, *("".join(pair) for pair in _MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: identifier for identifier, piece in enumerate(pieces)}, merges=_MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in _SPECIAL])
    return tokenizer


VOCABULARY = len(_SPECIAL) + 256 + len(_MERGES)


def write_tokenizer(directory: Path) -> Path:
    """`tokenizer.json` in `directory`."""
    path = directory / "tokenizer.json"
    build().save(str(path))
    return path
