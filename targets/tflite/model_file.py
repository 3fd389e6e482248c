"""A model file: subgraphs with a signature each, over one set of buffers.

A weight has one buffer, however many subgraphs read it. Numbers above a kilobyte stand *behind* the flatbuffer and are named by
offset and size, so that nothing in the file is limited to 2 GB. The flatbuffer is packed twice: first with placeholders for the
offsets (its size does not depend on them), then with the real ones; then the tensors follow, one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import File
from kexport.targets.base import TensorHook
from kexport.targets.tflite import flat
from kexport.targets.tflite.flat import Reference, Scalar
from kexport.targets.tflite.schema import FORMAT_VERSION, IDENTIFIER, LARGEST_OLD_CODE, OPERATORS, OPTIONS, TENSOR_TYPES
from numpy.typing import NDArray

INLINE_BYTES = 1024
ALIGNMENT = 64
PLACEHOLDER = 1  # 0 would be left out as the default, and the size of the flatbuffer would change with it
FIRST_SIZE = 1 << 20
NO_BUFFER = 0
ABSENT = -1
DESCRIPTION = "kexport"


@dataclass(frozen=True, slots=True)
class Computed:
    """Numbers that are computed only when they are written. Equal keys are one buffer."""

    key: tuple[Any, ...]
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]] = field(compare=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * item_size(self.dtype)

    @property
    def label(self) -> str:
        """A name for messages."""
        return str(self.key[0])


Stored = Weight | Computed


@dataclass(slots=True)
class TensorRecord:
    """One tensor of a subgraph; `buffer` 0 means that it has no numbers of its own."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: int = NO_BUFFER


@dataclass(slots=True)
class OperatorRecord:
    """One operator: the name of its form, tensor indices (-1: absent), options by field name."""

    form: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any]


@dataclass(slots=True)
class Subgraph:
    """One subgraph and its signature: tensor indices by input and output name."""

    name: str
    tensors: list[TensorRecord] = field(default_factory=list)
    operators: list[OperatorRecord] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    """Where a buffer's numbers stand: in the flatbuffer, or behind it."""

    raw: bytes = b""
    stored: Stored | None = None
    offset: int = PLACEHOLDER
    size: int = PLACEHOLDER


class ModelFile:
    """A model under construction."""

    def __init__(self) -> None:
        self.subgraphs: list[Subgraph] = []
        self._places: list[_Place] = [_Place()]  # buffer 0 is the empty one
        self._known: dict[Any, int] = {}

    def buffer(self, content: NDArray[Any] | Stored) -> int:
        """The number of the buffer with these numbers, entered once."""
        if isinstance(content, np.ndarray):
            raw = np.ascontiguousarray(content).tobytes()
            if len(raw) > INLINE_BYTES:
                digest = hashlib.sha256(raw).hexdigest()
                key = ("constant", digest, content.dtype.name, content.shape)
                return self.buffer(Computed(key, content.dtype.name, content.shape, lambda: content))
            return self._enter(("raw", raw), _Place(raw=raw))
        return self._enter(content, _Place(stored=content))

    def _enter(self, key: Any, place: _Place) -> int:
        if key not in self._known:
            self._known[key] = len(self._places)
            self._places.append(place)
        return self._known[key]

    def write(self, path: Path, weights: WeightSource, on_tensor: TensorHook | None = None) -> File:
        """Write the file; weights stream through memory one at a time.

        Raises:
            InternalError: a weight is not as large as it promised.
        """
        external = [place for place in self._places if place.stored is not None]
        position = _aligned(len(self._pack()))
        for place in external:
            assert place.stored is not None
            place.offset, place.size = position, place.stored.nbytes
            position = _aligned(position + place.size)
        head = self._pack()
        with path.open("wb") as file:
            stream = _Stream(file)
            stream.write(head)
            for place in external:
                stream.pad_to(place.offset)
                _append(stream, place, weights, on_tensor)
            stream.pad_to(_aligned(stream.size))
        return File(path=path.name, bytes=stream.size, sha256=stream.digest.hexdigest())

    # ---- the flatbuffer

    def _pack(self) -> bytes:
        b = flatbuffers.Builder(FIRST_SIZE)
        forms = sorted({operator.form for graph in self.subgraphs for operator in graph.operators})
        codes = flat.offsets(b, [_operator_code(b, form) for form in forms])
        graphs = flat.offsets(b, [_subgraph(b, graph, forms) for graph in self.subgraphs])
        buffers = flat.offsets(b, [_buffer(b, place) for place in self._places])
        signatures = flat.offsets(b, [_signature(b, graph, index) for index, graph in enumerate(self.subgraphs)])
        description = b.CreateString(DESCRIPTION)
        fields = [Scalar(0, "uint32", FORMAT_VERSION)]
        fields += [Reference(slot, offset) for slot, offset in ((1, codes), (2, graphs), (3, description), (4, buffers), (7, signatures))]  # type: ignore[misc]
        b.Finish(flat.table(b, fields), file_identifier=IDENTIFIER)
        return bytes(b.Output())


def _operator_code(b: flatbuffers.Builder, form: str) -> int:
    known = OPERATORS[form]
    return flat.table(
        b,
        [
            Scalar(0, "int8", min(known.code, LARGEST_OLD_CODE)),
            Scalar(2, "int32", known.version, 1),
            Scalar(3, "int32", known.code),
        ],
    )


def _buffer(b: flatbuffers.Builder, place: _Place) -> int:
    if place.stored is not None:
        return flat.table(b, [Scalar(1, "uint64", place.offset), Scalar(2, "uint64", place.size)])
    return flat.table(b, [Reference(0, flat.content(b, place.raw))] if place.raw else [])


def _subgraph(b: flatbuffers.Builder, graph: Subgraph, forms: Sequence[str]) -> int:
    numbers = {form: index for index, form in enumerate(forms)}
    tensors = flat.offsets(b, [_tensor(b, tensor) for tensor in graph.tensors])
    operators = flat.offsets(b, [_operator(b, operator, numbers[operator.form]) for operator in graph.operators])
    inputs, outputs = flat.integers(b, list(graph.inputs.values())), flat.integers(b, list(graph.outputs.values()))
    name = b.CreateString(graph.name)
    return flat.table(b, [Reference(slot, offset) for slot, offset in enumerate((tensors, inputs, outputs, operators, name))])


def _tensor(b: flatbuffers.Builder, tensor: TensorRecord) -> int:
    shape, name = flat.integers(b, tensor.shape), b.CreateString(tensor.name)
    return flat.table(
        b,
        [
            Reference(0, shape),
            Scalar(1, "int8", TENSOR_TYPES[tensor.dtype]),
            Scalar(2, "uint32", tensor.buffer),
            Reference(3, name),
            Scalar(8, "bool", True),
        ],
    )


def _operator(b: flatbuffers.Builder, operator: OperatorRecord, number: int) -> int:
    known = OPERATORS[operator.form]
    inputs, outputs = flat.integers(b, operator.inputs), flat.integers(b, operator.outputs)
    fields: list[Scalar | Reference] = [Scalar(0, "uint32", number), Reference(1, inputs), Reference(2, outputs)]
    if known.options:
        options = _options(b, known.options, operator.options)
        fields += [Scalar(3, "uint8", OPTIONS[known.options].union), Reference(4, options)]
    return flat.table(b, fields)


def _options(b: flatbuffers.Builder, name: str, given: dict[str, Any]) -> int:
    known = OPTIONS[name].fields
    fields: list[Scalar | Reference] = []
    for key, value in given.items():
        described = known[key]
        if described.kind == "ints":
            fields.append(Reference(described.slot, flat.integers(b, value)))
        else:
            fields.append(Scalar(described.slot, described.kind, value, described.default))
    return flat.table(b, fields)


def _signature(b: flatbuffers.Builder, graph: Subgraph, index: int) -> int:
    inputs, outputs = (
        flat.offsets(b, [_named(b, name, tensor) for name, tensor in side.items()]) for side in (graph.inputs, graph.outputs)
    )
    key = b.CreateString(graph.name)
    return flat.table(b, [Reference(0, inputs), Reference(1, outputs), Reference(2, key), Scalar(4, "uint32", index)])


def _named(b: flatbuffers.Builder, name: str, tensor: int) -> int:
    text = b.CreateString(name)
    return flat.table(b, [Reference(0, text), Scalar(1, "uint32", tensor)])


# ---- the tensors behind it


class _Stream:
    """A file written front to back, its digest growing along."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, raw: bytes | memoryview) -> None:
        self._file.write(raw)
        self.digest.update(raw)
        self.size += len(raw)

    def pad_to(self, offset: int) -> None:
        self.write(b"\0" * (offset - self.size))


def _append(stream: _Stream, place: _Place, weights: WeightSource, on_tensor: TensorHook | None) -> None:
    stored = place.stored
    assert stored is not None
    array = np.asarray(stored.materialize(weights) if isinstance(stored, Weight) else stored.make(), order="C")
    if array.nbytes != place.size:
        raise InternalError("KX902", f"{stored.label} has {array.nbytes} bytes, not {place.size}")
    if on_tensor is not None:
        on_tensor(stored.label, array)
    stream.write(array.reshape(-1).view(np.uint8).data)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
