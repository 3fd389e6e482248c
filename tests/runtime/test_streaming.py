"""Streams of text: the pieces are exactly the text of all ids, never change, and come in time that grows with their number only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kexport.runtime.contract import manifest
from kexport.runtime.contract.manifest import Packer, PieceDecoder
from kexport.runtime.longest_match import LongestMatch
from kexport.runtime.streaming import text_stream
from kexport.runtime.tokenizer import Tokenizer, _decoder_types
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models

from . import byte_tokenizer, longest_match_vocabulary

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
WORDS = ["▁", "▁▁", "▁the", "the", "▁a", "a", "b", ".", "ö", "日", "本", "▁日本", "�", " ", "▁x▁"]
PIECES = [*SPECIAL, *BYTES, *WORDS]


class CountingCodec:
    """A tokenizer object of the library as a codec; counts the ids it decodes."""

    def __init__(self, library: LibraryTokenizer, rules: PieceDecoder | None, decoder_types: tuple[str, ...]) -> None:
        from kexport.runtime.piece_decoder import decode_ids

        self._library, self._rules, self._decode_ids = library, rules, decode_ids
        self.decoder_types = decoder_types
        self.decoded = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._library.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        if self._rules is not None:
            return self._decode_ids(ids, self.piece, self._rules)
        return str(self._library.decode(list(ids), skip_special_tokens=False))

    def piece(self, identifier: int) -> str:
        return self._library.id_to_token(identifier) or ""


class CountingBytes:
    """A vocabulary of byte strings as a codec; counts the ids it decodes."""

    decoder_types: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._tokens = dict(enumerate(longest_match_vocabulary.TOKENS, start=longest_match_vocabulary.FIRST_ID))
        self._matcher = LongestMatch(self._tokens)
        self.decoded = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._matcher.encode(text.encode()) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def piece(self, identifier: int) -> str:
        return self.token_bytes(identifier).decode("utf-8", errors="replace")

    def token_bytes(self, identifier: int) -> bytes:
        self.decoded += 1
        return self._tokens.get(identifier, b"")


def make_bytes() -> Tokenizer:
    """The runtime's tokenizer around a vocabulary of byte strings."""
    size = len(longest_match_vocabulary.TOKENS) + longest_match_vocabulary.FIRST_ID
    record = manifest.Tokenizer(kind="longest_match", file="x", vocabulary_size=size, packers={"prompt": Packer()}, stripped_ids=(0,))
    return Tokenizer(record, CountingBytes())


def make(library: LibraryTokenizer, rules: PieceDecoder | None = None, stripped: tuple[int, ...] = (1, 2)) -> Tokenizer:
    """The runtime's tokenizer around a library object."""
    import json

    types = _decoder_types(json.loads(library.to_str()).get("decoder"))
    record = manifest.Tokenizer(
        kind="tokenizers", file="x", vocabulary_size=library.get_vocab_size(), packers={"prompt": Packer()}, stripped_ids=stripped,
        special_tokens={"unk": 0}, piece_decoder=rules,
    )  # fmt: skip
    return Tokenizer(record, CountingCodec(library, rules, types))


def pieces_library(decoder: Any) -> LibraryTokenizer:
    """A SentencePiece-like vocabulary with the given decoder."""
    library = LibraryTokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[], byte_fallback=True))
    if decoder is not None:
        library.decoder = decoder
    return library


def spm_decoder(strip: bool) -> Any:
    """What Llama-like and Gemma-like files carry."""
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)


def rules(leading_space: Any) -> PieceDecoder:
    """SentencePiece's own decoding of the same vocabulary."""
    return PieceDecoder(control_ids=(1, 2), unknown_id=0, byte_ids=tuple(range(3, 259)), leading_space=leading_space)


KINDS: dict[str, Any] = {
    "byte-level": lambda: make(byte_tokenizer.build()),
    "llama file": lambda: make(pieces_library(spm_decoder(strip=True))),
    "gemma file": lambda: make(pieces_library(spm_decoder(strip=False))),
    "metaspace file": lambda: make(pieces_library(decoders.Metaspace())),
    "byte strings": make_bytes,
    "no decoder": lambda: make(pieces_library(None)),
    "rules keep": lambda: make(pieces_library(None), rules("keep")),
    "rules strip one": lambda: make(pieces_library(None), rules("strip-one")),
    "rules strip all": lambda: make(pieces_library(None), rules("strip-all")),
    "rules, controls not stripped": lambda: make(pieces_library(None), rules("strip-all"), stripped=()),
}
BYTE_KINDS = ("byte-level", "byte strings")
TOKENIZERS = {name: build() for name, build in KINDS.items()}


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What a stream gives for ids that come one by one, the end last."""
    stream = text_stream(tokenizer)
    return [*(stream.feed([identifier]) for identifier in ids), stream.end()]


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_text(name: str, data: st.DataObject) -> None:
    """Random ids, many of them parts of characters, in parts of any size."""
    tokenizer = TOKENIZERS[name]
    size = tokenizer.record.vocabulary_size
    characters = st.sampled_from("ö日𝄞a ").map(lambda c: [3 + value for value in c.encode()])
    some_ids = st.one_of(st.integers(0, size - 1).map(lambda i: [i]), st.integers(3, 258).map(lambda i: [i]), characters)
    ids = [i for part in data.draw(st.lists(some_ids, max_size=30)) for i in part]
    expected = tokenizer.decode(ids)
    assert "".join(pieces_of(tokenizer, ids)) == expected
    stream = text_stream(tokenizer)
    cut = data.draw(st.integers(0, len(ids)))
    assert stream.feed(ids[:cut]) + stream.feed(ids[cut:]) + stream.end() == expected


@pytest.mark.parametrize("name", ["byte-level", "byte strings", "rules keep", "rules strip all"])
def test_character_comes_when_it_is_whole(name: str) -> None:
    """A character of several bytes is not shown in parts, and not held back longer than needed."""
    tokenizer = TOKENIZERS[name]
    if name == "byte-level":
        ids = tokenizer.encode(["日本"])[0]
    elif name == "byte strings":
        ids = [longest_match_vocabulary.FIRST_ID + value for value in "日本".encode()]
    else:
        ids = [3 + value for value in "日本".encode()]
    assert pieces_of(tokenizer, ids) == ["", "", "日", "", "", "本", ""]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "no decoder"])
def test_ordinary_ids_come_at_once(name: str) -> None:
    """Text that no later id can change is not held back."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode([" say a b"])[0] if name in BYTE_KINDS else [PIECES.index(piece) for piece in ("▁the", "▁a", "b", "日")]
    stream = text_stream(tokenizer)
    shown = ""
    for count, identifier in enumerate(ids, start=1):
        shown += stream.feed([identifier])
        assert shown == tokenizer.decode(ids[:count])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("ids", ["words", "bytes", "broken", "spaces"])
def test_time_is_linear(name: str, ids: str) -> None:
    """Each id is decoded a bounded number of times, broken bytes without end included."""
    tokenizer = KINDS[name]()
    choices = {"words": PIECES.index("▁a"), "bytes": 3 + ord("a"), "broken": 3 + 0x80, "spaces": PIECES.index("▁▁")}
    count = 2000
    stream = text_stream(tokenizer)
    tokenizer.codec.decoded = 0
    for _ in range(count):
        stream.feed([choices[ids] if name != "byte-level" else 3 + 200])
    stream.end()
    assert tokenizer.codec.decoded <= 12 * count
