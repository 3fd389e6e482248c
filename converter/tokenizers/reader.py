"""Reads a written tokenizer back the way the runtime does: only the file and the manifest's record, nothing of Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kexport.converter.tokenizers.registry import Rendering
from kexport.runtime.piece_decoder import decode_ids


@dataclass(frozen=True)
class WrittenTokenizer:
    """Text to ids and back, without any packing. `encode` takes a batch; `decode` takes one row of ids that are not to be stripped."""

    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]


def read_back(directory: Path, rendering: Rendering) -> WrittenTokenizer:
    """The tokenizer that `rendering` wrote into `directory`."""
    return _READERS[rendering.kind](directory / rendering.file, rendering)


def _read_tokenizers(path: Path, rendering: Rendering) -> WrittenTokenizer:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [row.ids for row in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(ids: Sequence[int]) -> str:
        if rendering.piece_decoder is not None:
            return decode_ids(ids, lambda identifier: tokenizer.id_to_token(identifier) or "", rendering.piece_decoder)
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    return WrittenTokenizer(encode=encode, decode=decode)


def _read_sentence_piece(path: Path, rendering: Rendering) -> WrittenTokenizer:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return WrittenTokenizer(
        encode=lambda texts: [list(row) for row in processor.Encode(list(texts))], decode=lambda ids: str(processor.Decode(list(ids)))
    )


_READERS: dict[str, Callable[[Path, Rendering], WrittenTokenizer]] = {"tokenizers": _read_tokenizers, "sentencepiece": _read_sentence_piece}
