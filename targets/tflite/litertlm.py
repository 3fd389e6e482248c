"""`model.litertlm`: the bundle that LiteRT-LM opens, with metadata, tokenizer and model as sections on 16 KiB boundaries.

    "LITERTLM", version, end of header at byte 24, header (FlatBuffers: where each section stands) at byte 32, then the sections

Written by ourselves because the vendor's builder puts the time and a random number into every file; its message type says what the
metadata section holds. The model is copied in pieces: nothing is held in memory.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flatbuffers
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import File
from kexport.targets.tflite import flat
from kexport.targets.tflite.flat import Reference, Scalar

MAGIC = b"LITERTLM"
VERSION = (1, 7, 0)
END_OF_HEADER = 24
HEADER_START = 32
BLOCK = 16 * 1024
MODEL, SENTENCE_PIECE, METADATA, TOKENIZER_JSON = 3, 4, 5, 6  # AnySectionDataType
STRING_VALUE = 9  # VData
PLACEHOLDER = 1
MODEL_TYPE = {"model_type": "tf_lite_prefill_decode"}
PRODUCER = {"Authors": "kexport"}
SIZE_BYTES = 8  # before a packed tokenizer stands its unpacked size
COPY_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind, a file or bytes, and what is said about it."""

    kind: int
    content: Path | bytes
    items: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def write_bundle(path: Path, model: Path, tokenizer: Path, metadata: bytes) -> File:
    """Write the bundle `path` from these parts."""
    sections = [Section(METADATA, metadata, {}), _tokenizer_section(tokenizer), Section(MODEL, model, MODEL_TYPE)]
    position = _on_block(HEADER_START + len(_header(sections, [(PLACEHOLDER, PLACEHOLDER)] * len(sections))))
    places = []
    for section in sections:
        places.append((position, position + section.size))
        position = _on_block(position + section.size)
    header = _header(sections, places)
    with path.open("wb") as file:
        file.write((MAGIC + struct.pack("<3I", *VERSION)).ljust(END_OF_HEADER, b"\0"))
        file.write(struct.pack("<Q", HEADER_START + len(header)))
        file.write(header)
        for section, (begin, _) in zip(sections, places, strict=True):
            file.seek(begin)
            if isinstance(section.content, bytes):
                file.write(section.content)
            else:
                with section.content.open("rb") as source:
                    shutil.copyfileobj(source, file, COPY_BYTES)
    return File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def llm_metadata(*, start_token_ids: Sequence[int], stop_token_ids: Sequence[int], capacity: int) -> bytes:
    """The metadata section: which tokens start a prompt, which end a text, how many there may be.

    Raises:
        UnsupportedError: the vendor's message types are not installed.
    """
    try:
        from litert_lm_builder.runtime.proto import llm_metadata_pb2
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "KX209", f"--package litertlm needs the package `{error.name}`, which is not installed", hint='pip install "kexport[convert]"'
        ) from error
    message = llm_metadata_pb2.LlmMetadata()
    if start_token_ids:
        message.start_token.token_ids.ids.extend(int(token) for token in start_token_ids)
    for token in stop_token_ids:
        message.stop_tokens.add().token_ids.ids.append(int(token))
    message.max_num_tokens = capacity
    message.llm_model_type.generic_model.SetInParent()
    message.supports_thinking = message.supports_function_calling = False
    return bytes(message.SerializeToString(deterministic=True))


def _tokenizer_section(tokenizer: Path) -> Section:
    if tokenizer.suffix == ".json":
        content = tokenizer.read_bytes()
        return Section(TOKENIZER_JSON, len(content).to_bytes(SIZE_BYTES, "little") + zlib.compress(content), {})
    return Section(SENTENCE_PIECE, tokenizer, {})


def _header(sections: Sequence[Section], places: Sequence[tuple[int, int]]) -> bytes:
    b = flatbuffers.Builder(BLOCK)
    objects = [_section(b, section, begin, end) for section, (begin, end) in zip(sections, places, strict=True)]
    listed = flat.table(b, [Reference(0, flat.offsets(b, objects))])
    system = flat.table(b, [Reference(0, _items(b, PRODUCER))])
    b.Finish(flat.table(b, [Reference(0, system), Reference(1, listed)]))
    return bytes(b.Output())


def _section(b: flatbuffers.Builder, section: Section, begin: int, end: int) -> int:
    items = _items(b, section.items)
    return flat.table(b, [Reference(0, items), Scalar(1, "uint64", begin), Scalar(2, "uint64", end), Scalar(3, "uint8", section.kind)])


def _items(b: flatbuffers.Builder, items: dict[str, str]) -> int:
    return flat.offsets(b, [_item(b, key, value) for key, value in items.items()])


def _item(b: flatbuffers.Builder, key: str, value: str) -> int:
    text = flat.table(b, [Reference(0, b.CreateString(value))])
    name = b.CreateString(key)
    return flat.table(b, [Reference(0, name), Scalar(1, "uint8", STRING_VALUE), Reference(2, text)])


def _on_block(position: int) -> int:
    return -(-position // BLOCK) * BLOCK
