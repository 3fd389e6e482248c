"""Text to padded ids and back, by the records of the manifest: no Keras, and no rule of any model family.

Each kind of tokenizer file is one `TextCodec`; the policy around it (what is prepended, where a prompt is cut, which ids never become text)
is the same for all and stands in `Tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.paths import open_path
from kexport.runtime.longest_match import LongestMatch, read_vocabulary
from kexport.runtime.piece_decoder import decode_ids
from kexport.runtime.prompts import Ids, Mask, Prompt, check_capacity

SILENT_ID = 0  # of a vocabulary of byte strings


class TextCodec(Protocol):
    """A tokenizer file that was opened. `decoder_types`: the decoders its file names, outermost first; empty where it names none."""

    decoder_types: tuple[str, ...]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens as they are spelled. Ids the file does not know give no text."""

    def piece(self, identifier: int) -> str:
        """The spelling of one id in the file, "" for none."""


@runtime_checkable
class ByteCodec(TextCodec, Protocol):
    """A codec whose ids are bytes wherever they stand: a text's bytes are those of its ids, one after the other."""

    def token_bytes(self, identifier: int) -> bytes:
        """The bytes of one id, none for an id without a token."""


class Tokenizer:
    """The tokenizer of an artifact. `chat_template`: the text of its chat template, None where it has none."""

    def __init__(self, record: manifest.Tokenizer, codec: TextCodec, chat_template: str | None = None) -> None:
        self.record = record
        self.codec = codec
        self.chat_template = chat_template
        self._stripped = frozenset(record.stripped_ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added. Raises InvalidInputError (KX528) for a text that cannot be written as UTF-8; KerasHub's tokenizers fail on it, too."""
        for text in texts:
            _check_unicode(text)
        return self.codec.encode(texts)

    def visible(self, ids: Iterable[int]) -> list[int]:
        """The ids that become text: all but the stripped ones."""
        return [identifier for identifier in ids if identifier not in self._stripped]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, stripped ids dropped first, as KerasHub's postprocessing does."""
        return self.codec.decode(self.visible(ids))

    def packer(self, role: str) -> manifest.Packer:
        """The packer called `role`. Raises InvalidInputError (KX541) where there is none."""
        packer = self.record.packers.get(role)
        if packer is None:
            raise InvalidInputError("KX541", f"the artifact's tokenizer has no `{role}` packer", hint="convert the model again")
        return packer

    def pack(self, role: str, texts: Sequence[str], length: int | None = None, *, capacity: int = 0) -> Prompt:
        """`texts` as a padded batch [texts, length] by the packer called `role`; `length` None takes the packer's.

        A prompt that is too long for `length` is cut on the right, as KerasHub does; one that the artifact could never serve
        (`capacity`, 0: no limit) is refused. Raises InvalidInputError: KX523 for such a prompt, KX541 for a role without a packer.
        """
        packer = self.packer(role)
        width = packer.sequence_length if length is None else length
        rows = self.encode(texts)
        for row in rows:
            check_capacity(len(packer.start) + len(row) + len(packer.end), capacity, "a prompt has")
        return pack_rows(rows, packer, width)

    def texts(self, ids: Ids, mask: Mask) -> list[str]:
        """The text of each row's ids where the mask is True."""
        return [self.decode(row[visible].tolist()) for row, visible in zip(ids, mask, strict=True)]


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        hint = "it holds bytes that are not UTF-8, or half a pair of surrogates"
        raise InvalidInputError("KX528", f"a prompt is no Unicode text: {error}", hint=hint) from error


def pack_rows(rows: Sequence[Sequence[int]], packer: manifest.Packer, length: int) -> Prompt:
    """`start`, then as many of the row's ids as fit, then `end`, then `pad` up to `length`; int32, as KerasHub packs."""
    room = max(0, length - len(packer.start) - len(packer.end))
    ids = np.full((len(rows), length), packer.pad, np.int32)
    mask = np.zeros((len(rows), length), np.bool_)
    for number, row in enumerate(rows):
        packed = [*packer.start, *row[:room], *packer.end][:length]
        place = slice(0, len(packed)) if packer.padding_side == "right" else slice(length - len(packed), length)
        ids[number, place] = packed
        mask[number, place] = True
    return Prompt(ids, mask)


def open_tokenizer(directory: Path, record: manifest.Tokenizer) -> Tokenizer:
    """The tokenizer that `record` describes.

    Raises InvalidInputError (KX540) for a file that cannot be read as what it claims to be, UnsupportedError (KX511) where its library is
    not installed.
    """
    path = open_path(directory, record.file)
    try:
        codec = _CODECS[record.kind](path, record)
    except ModuleNotFoundError as error:
        message = f"this artifact's tokenizer needs `{error.name}`, which is not installed"
        hint = 'pip install "kexport[sentencepiece]"' if record.kind == "sentencepiece" else "pip install tokenizers"
        raise UnsupportedError("KX511", message, hint=hint) from error
    return Tokenizer(record, codec, _read_chat_template(directory, record))


def _read_chat_template(directory: Path, record: manifest.Tokenizer) -> str | None:
    if record.chat is None:
        return None
    path = open_path(directory, record.chat.file)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error


class _TokenizersCodec:
    """A Hugging Face `tokenizer.json`, with SentencePiece's own decoding where the manifest asks for it."""

    def __init__(self, path: Path, record: manifest.Tokenizer) -> None:
        import tokenizers

        try:
            text = path.read_text(encoding="utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare `Exception`
            raise _unreadable(path, error) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._rules = record.piece_decoder
        self.decoder_types = _decoder_types(json.loads(text).get("decoder"))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        if self._rules is not None:
            return decode_ids(ids, self.piece, self._rules)
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def piece(self, identifier: int) -> str:
        return self._tokenizer.id_to_token(identifier) or ""


class _SentencePieceCodec:
    """A SentencePiece model file."""

    decoder_types: tuple[str, ...] = ()

    def __init__(self, path: Path, record: manifest.Tokenizer) -> None:
        import sentencepiece

        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except Exception as error:  # the library raises RuntimeError, OSError and its own
            raise _unreadable(path, error) from error
        self._size = self._processor.vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._processor.encode(list(texts))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._processor.decode([identifier for identifier in ids if identifier < self._size])
        return text

    def piece(self, identifier: int) -> str:
        piece: str = self._processor.id_to_piece(identifier) if identifier < self._size else ""
        return piece


class _LongestMatchCodec:
    """A vocabulary of byte strings (see longest_match.py). As in KerasHub the id 0 never becomes text. Where bytes are no UTF-8 KerasHub's own
    tokenizer raises; here each broken part becomes U+FFFD, because a character cut by the end of a generation is ordinary.
    """

    decoder_types: tuple[str, ...] = ()

    def __init__(self, path: Path, record: manifest.Tokenizer) -> None:
        try:
            self._matcher = LongestMatch(read_vocabulary(path.read_text(encoding="utf-8")))
        except ValueError as error:  # UnicodeDecodeError, too
            raise _unreadable(path, error) from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [self._matcher.encode(text.encode("utf-8")) for text in texts]
        except ValueError as error:  # UnicodeEncodeError, too: half a surrogate pair
            raise InvalidInputError("KX528", f"a prompt cannot be tokenized: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def piece(self, identifier: int) -> str:
        return self._matcher.tokens.get(identifier, b"").decode("utf-8", errors="replace")

    def token_bytes(self, identifier: int) -> bytes:
        return self._matcher.tokens.get(identifier, b"") if identifier != SILENT_ID else b""


_CODECS: dict[str, Callable[[Path, manifest.Tokenizer], TextCodec]] = {
    "tokenizers": _TokenizersCodec,
    "sentencepiece": _SentencePieceCodec,
    "longest_match": _LongestMatchCodec,
}


def _decoder_types(decoder: Any) -> tuple[str, ...]:
    """The type names in a `tokenizer.json` decoder, those inside a Sequence one by one."""
    if not isinstance(decoder, dict):
        return ()
    if decoder.get("type") == "Sequence":
        return tuple(name for part in decoder.get("decoders", []) for name in _decoder_types(part))
    return (str(decoder.get("type")),)


def _unreadable(path: Path, error: Exception) -> InvalidInputError:
    hint = "the file is damaged; convert the model again or fetch the artifact from its source again"
    return InvalidInputError("KX540", f"`{path.name}` is not a readable tokenizer: {error}", hint=hint)
