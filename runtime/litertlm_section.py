"""Where the model stands inside a `.litertlm` bundle: magic, version, a FlatBuffers header that lists the sections, then the sections.

LiteRTLMMetaData: 1 section_metadata -> SectionMetadata: 0 objects -> SectionObject: 1 begin, 2 end (bytes), 3 kind
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import flatbuffers
from flatbuffers import encode, number_types
from flatbuffers.table import Table
from kexport.runtime.contract.errors import InvalidInputError

MAGIC = b"LITERTLM"
END_OF_HEADER = 24  # where the header's end is written, uint64
HEADER_START = 32
LARGEST_HEADER = 1 << 20
MODEL_KIND = 3
SECTION_METADATA, OBJECTS, BEGIN, END, KIND = 1, 0, 1, 2, 3
COPY_BYTES = 1 << 24


def model_section(path: Path) -> tuple[int, int]:
    """First byte and size of the model in the bundle.

    Raises InvalidInputError (KX571): it is no bundle, or has no model.
    """
    try:
        begin, stop = next((begin, stop) for kind, begin, stop in _sections(_header(path)) if kind == MODEL_KIND)
    except (ValueError, IndexError, StopIteration, struct.error) as error:
        raise _no_bundle(path, str(error) or "it lists no model") from error
    if not HEADER_START < begin < stop <= path.stat().st_size:
        raise _no_bundle(path, "the model lies outside the file")
    return begin, stop - begin


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(HEADER_START)
        (end,) = struct.unpack_from("<Q", start, END_OF_HEADER)
        if not start.startswith(MAGIC) or not HEADER_START < end < LARGEST_HEADER:
            raise ValueError("it does not start as one")
        return file.read(end - HEADER_START)


def _no_bundle(path: Path, why: str) -> InvalidInputError:
    message = f"`{path.name}` is no LiteRT-LM bundle with a model: {why}"
    return InvalidInputError("KX571", message, hint="the file is damaged; convert the model again")


def _sections(header: bytes) -> Iterator[tuple[int, int, int]]:
    """(kind, begin, end) of every section."""
    root = Table(bytearray(header), encode.Get(flatbuffers.packer.uoffset, header, 0))
    metadata = _child(root, SECTION_METADATA)
    field = metadata.Offset(_vtable_place(OBJECTS))
    if not field:
        raise ValueError("no sections")
    first = metadata.Vector(field)
    for index in range(metadata.VectorLen(field)):
        section = Table(metadata.Bytes, metadata.Indirect(first + index * number_types.UOffsetTFlags.bytewidth))
        numbers = number_types.Uint64Flags
        begin, end = (section.GetSlot(_vtable_place(slot), 0, numbers) for slot in (BEGIN, END))
        yield int(section.GetSlot(_vtable_place(KIND), 0, number_types.Uint8Flags)), int(begin), int(end)


def _child(table: Table, slot: int) -> Table:
    field = table.Offset(_vtable_place(slot))
    if not field:
        raise ValueError("an empty header")
    return Table(table.Bytes, table.Indirect(field + table.Pos))


def _vtable_place(slot: int) -> int:
    header_entries = 2
    return (slot + header_entries) * int(number_types.VOffsetTFlags.bytewidth)


@contextmanager
def model_file(path: Path) -> Iterator[Path]:
    """A path under which the model alone can be opened: the file itself, or for a bundle a copy that is gone afterwards.

    The library opens whole files only, and maps what it opened: the copy costs disk while the model is in use, not memory.
    """
    if path.suffix != ".litertlm":
        yield path
        return
    begin, size = model_section(path)
    with NamedTemporaryFile(prefix="kexport-", suffix=".tflite") as copy, path.open("rb") as source:
        source.seek(begin)
        while size:
            piece = source.read(min(size, COPY_BYTES))
            copy.write(piece)
            size -= len(piece)
        copy.flush()
        os.fsync(copy.fileno())
        yield Path(copy.name)
