"""FlatBuffers tables, vectors and strings from plain Python values: the little that a model file needs.

Children are written before their parents, as the format asks; every function returns the offset of what it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np

OFFSET_BYTES = 4
DATA_ALIGNMENT = 16  # the schema's force_align of Buffer.data


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in a table; left out where it equals `default`."""

    slot: int
    kind: str
    value: Any
    default: Any = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """An offset in a table: to a string, a vector or another table."""

    slot: int
    offset: int


def table(b: flatbuffers.Builder, fields: Sequence[Scalar | Reference]) -> int:
    """Write a table with these fields."""
    b.StartObject(max((item.slot for item in fields), default=-1) + 1)
    for item in fields:
        if isinstance(item, Reference):
            b.PrependUOffsetTRelativeSlot(item.slot, item.offset, 0)
        else:
            prepend = getattr(b, f"Prepend{item.kind.capitalize()}Slot")
            prepend(item.slot, item.value, item.default)
    return int(b.EndObject())


def integers(b: flatbuffers.Builder, numbers: Sequence[int]) -> int:
    """Write a vector of int32."""
    return int(b.CreateNumpyVector(np.asarray(numbers, np.int32)))


def offsets(b: flatbuffers.Builder, children: Sequence[int]) -> int:
    """Write a vector of tables."""
    b.StartVector(OFFSET_BYTES, len(children), OFFSET_BYTES)
    for child in reversed(children):
        b.PrependUOffsetTRelative(child)
    return int(b.EndVector())


def content(b: flatbuffers.Builder, raw: bytes) -> int:
    """Write a vector of bytes, aligned as tensor data must be."""
    b.StartVector(1, len(raw), DATA_ALIGNMENT)
    b.head = b.head - len(raw)
    b.Bytes[b.head : b.head + len(raw)] = raw
    return int(b.EndVector())
