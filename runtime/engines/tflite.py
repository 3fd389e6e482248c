"""The TFLite engine: LiteRT's CompiledModel on the CPU, each cache buffer bound as input and as output, so that a step copies no cache.

All shapes in a file are fixed, and so is its one row: a batch is served row by row, one set of buffers a row. What signatures there
are is read from the manifest (names of contract/names.py):

- a prompt but its last token goes through `prefill_<n>` in the pieces that cost least, padded at its end only; the first piece through
  `first_<n>` where there is one, which looks at no position behind it;
- every last token goes through `decode_<c>`, of which the smallest that sees all positions so far is taken, or `decode`;
- padding is written behind the row's length, where masks hide it until the row's own tokens overwrite it;
- a state of a recurrent layer would take padding for tokens: with states only pieces that fit exactly are used. They have two buffers
  each: a call reads one and writes the other, in an order that only the library knows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ai_edge_litert
import numpy as np
import numpy.typing as npt
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.cpu_options import CpuOptions
from ai_edge_litert.environment import Environment, EnvironmentOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import Options
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError, InvalidInputError
from kexport.runtime.contract.manifest import Manifest, Signature, TensorSpec
from kexport.runtime.engines.base import (
    CacheState,
    Engine,
    EngineOptions,
    Lengths,
    Logits,
    Tokens,
    check_contents,
    normal_lengths,
    register_engine,
    slot_specs,
    state_slots,
)
from kexport.runtime.litertlm_section import model_file
from kexport.runtime.native_output import captured_stderr

Array = npt.NDArray[Any]
Buffers = dict[str, Any]

_IN_MEMORY = ":memory"  # XNNPACK's name for packed weights in shared memory
_ROOM_FOR_PACKING = 1.5  # free disk, in sizes of the model file, from which weights are packed into a file
_CALL_TOKENS = 9  # a call costs as much as this many tokens of its bucket (weights are read once); measured on a 125M model
_PAD = 0


@dataclass(frozen=True)
class _Steps:
    """The signatures of a file: prefill buckets, those for the first piece of a row, and encoders by length, decoders by how many positions they look at."""

    prefill: dict[int, Signature]
    first: dict[int, Signature]
    decode: dict[int, Signature]
    encode: dict[int, Signature]
    cache_specs: tuple[TensorSpec, ...]
    cross_specs: tuple[TensorSpec, ...]
    state_specs: tuple[TensorSpec, ...]
    cache_length: int


@dataclass
class _Row:
    """The buffers of one row: self caches, states and what the next call writes in their place, and cross caches once there was an encoder
    prompt (`encoder_mask` None before). `valid_length` [1]: where padding starts in what is fed next, `extents`: the cache's own."""

    caches: Buffers
    cross: Buffers
    states: Buffers
    spare_states: Buffers
    valid_length: Array = field(default_factory=lambda: np.zeros(1, np.int32))
    extents: Callable[[Array], Array] = lambda positions: positions + 1  # replaced before each call
    encoder_mask: Array | None = None


@dataclass(frozen=True)
class _Snapshot:
    """Copies of all rows' buffers."""

    lengths: Lengths
    rows: list[tuple[dict[str, Array], Array | None]]


class TfliteCache(CacheState):
    """One set of LiteRT buffers a row, each [1, key-value heads, cache length, head dim]."""

    def __init__(self, engine: TfliteEngine, batch_size: int, capacity: int) -> None:
        self._engine = engine
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.has_states = engine.has_states
        self.rows = [engine.new_row() for _ in range(batch_size)]

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        order = np.asarray(rows, np.int64)
        taken: set[int] = set()
        result = []
        for row in order.tolist():  # a row's buffers go to the first that continues it, the others get copies
            result.append(self._engine.copy_row(self.rows[row]) if row in taken else self.rows[row])
            taken.add(row)
        self.rows, self.lengths = result, self.lengths[order].copy()

    def snapshot(self) -> object:
        return _Snapshot(self.lengths.copy(), [self._engine.read_row(row) for row in self.rows])

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        while len(self.rows) < len(snapshot.rows):
            self.rows.append(self._engine.new_row())
        del self.rows[len(snapshot.rows) :]
        for row, content in zip(self.rows, snapshot.rows, strict=True):
            self._engine.write_row(row, content)
        self.lengths = snapshot.lengths.copy()


class TfliteEngine(Engine):
    """One artifact opened with LiteRT."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        self._steps = _read_steps(manifest)
        self._capacity = manifest.cache.capacity
        whole = self._steps.decode[self._steps.cache_length]
        self.vocabulary_size = _vocabulary_size(whole)
        self.describe(whole)
        self._needs_encoder = bool(self._steps.cross_specs)
        self.has_states = bool(self._steps.state_specs)
        self._model: CompiledModel | None = open_model(directory / whole.file, options)
        self._inputs: dict[str, Buffers] = {}
        self._hidden_buffers: Buffers = {}  # by signature
        self._logits = self._buffer(whole.name, names.LOGITS, of_output=True)
        with captured_stderr():  # the first write of a process makes LiteRT look for accelerators once more, and say so
            self._logits.write(np.zeros(self.vocabulary_size, np.float32))

    # ---- rows

    def new_cache(self, batch_size: int, capacity: int) -> TfliteCache:
        if batch_size < 1 or capacity < 1 or (self._capacity and capacity > self._capacity):
            hint = f"this artifact serves up to {self._capacity} tokens; convert again with a larger --max-length"
            raise InvalidInputError("KX553", f"cannot make a cache of {batch_size} rows and {capacity} tokens", hint=hint)
        return TfliteCache(self, batch_size, capacity)

    def new_row(self) -> _Row:
        """Buffers for one row, all zero: what is hidden still takes part in sums, so it must be numbers."""
        whole = self._steps.decode[self._steps.cache_length].name
        steps = self._steps
        kinds = (steps.cache_specs, steps.cross_specs, steps.state_specs, steps.state_specs)
        caches, cross, states, spare = ({spec.name: self._buffer(whole, spec.name) for spec in specs} for specs in kinds)
        row = _Row(caches, cross, states, spare)
        for specs, buffers in zip(kinds, (row.caches, row.cross, row.states, row.spare_states), strict=True):
            for spec in specs:
                buffers[spec.name].write(np.zeros(_sizes(spec), numpy_dtype(spec.dtype)))
        return row

    def read_row(self, row: _Row) -> tuple[dict[str, Array], Array | None]:
        """A row's contents."""
        buffers = row.caches | row.cross | row.states
        specs = (*self._steps.cache_specs, *self._steps.cross_specs, *self._steps.state_specs)
        arrays = {spec.name: read_buffer(buffers[spec.name], spec) for spec in specs}
        return arrays, row.encoder_mask

    def write_row(self, row: _Row, content: tuple[dict[str, Array], Array | None]) -> None:
        """Set a row's contents."""
        arrays, row.encoder_mask = content
        buffers = row.caches | row.cross | row.states
        for name, array in arrays.items():
            buffers[name].write(array)

    def copy_row(self, row: _Row) -> _Row:
        """A row of the same contents."""
        copy = self.new_row()
        self.write_row(copy, self.read_row(row))
        return copy

    # ---- calls

    def encode(self, tokens: Tokens, padding_mask: npt.NDArray[np.bool_], cache: CacheState) -> None:
        if not self._steps.encode:
            super().encode(tokens, padding_mask, cache)  # raises
            return
        assert isinstance(cache, TfliteCache)
        for row, ids, mask in zip(cache.rows, tokens, padding_mask, strict=True):
            real = np.flatnonzero(mask)
            width = int(real[-1]) + 1 if real.size else 1
            bucket = min((length for length in self._steps.encode if length >= width), default=0)
            if not bucket:
                longest = max(self._steps.encode)
                message = f"the encoder prompt has {width} tokens, this artifact takes {longest}"
                raise InvalidInputError("KX560", message, hint="shorten the encoder's prompt")
            signature = self._steps.encode[bucket]
            feeds = {names.TOKENS: _padded(ids[:width], bucket)[None], names.ENCODER_MASK: _padded(mask[:width], bucket)[None]}
            self._run(signature, feeds, {}, row.cross)
            row.encoder_mask = _padded(mask[:width], max(self._steps.encode))[None]

    def extend(self, cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None = None) -> Logits:
        assert isinstance(cache, TfliteCache)
        counts = normal_lengths(cache, tokens, lengths)
        if self._needs_encoder and any(row.encoder_mask is None for row in cache.rows):
            raise InvalidInputError("KX552", "the encoder prompt is missing", hint="call `encode` before `extend`")
        logits = np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        for index, count in enumerate(counts.tolist()):
            if count:
                cache.rows[index].extents = cache.extents
                cache.rows[index].valid_length = self.valid_lengths_of(cache, slice(index, index + 1))
                self._extend_row(cache.rows[index], tokens[index, :count], int(cache.lengths[index]), index)
                logits[index] = self._logits.read(self.vocabulary_size, np.float32)
                cache.lengths[index] += count
        return logits

    def fill(self, cache: CacheState, contents: Sequence[Sequence[Array]]) -> None:
        assert isinstance(cache, TfliteCache)
        specs = self._steps.cache_specs
        lengths = check_contents(cache, contents, len(specs))
        for row, parts in zip(cache.rows, contents, strict=True):
            for spec, part in zip(specs, parts, strict=False):
                array = np.zeros(_sizes(spec), numpy_dtype(spec.dtype))
                array[0, :, : len(part)] = part.transpose(1, 0, 2)
                row.caches[spec.name].write(array)
        cache.lengths[:] = lengths

    def _extend_row(self, row: _Row, tokens: Tokens, held: int, index: int) -> None:
        """Append the tokens of the row at `index`; the logits of the last are in the logits buffer."""
        done = 0
        for bucket in self._pieces(held, len(tokens) - 1):
            real = min(bucket, len(tokens) - 1 - done)
            if bucket == 1:
                signature = self._decode(row, tokens[done], held + done)
            else:
                start = held + done
                feeds = {names.TOKENS: _padded(tokens[done : done + real], bucket)[None], names.INPUT_POS: start + np.arange(bucket)}
                signatures = self._steps.first if start == 0 and bucket in self._steps.first else self._steps.prefill
                signature = signatures[bucket]
                self._run_row(signature, feeds, row)
            self._collect(signature, index, done, real)
            done += real
        self._collect(self._decode(row, tokens[-1], held + len(tokens) - 1), index, done, 1)

    def _collect(self, signature: Signature, index: int, start: int, real: int) -> None:
        """Pass on the hidden states of the first `real` columns of the signature's last run, where they are wanted."""
        if self._hidden_states is not None:
            width = next(spec.shape[1] for spec in signature.outputs if spec.name == names.HIDDEN_STATES)
            values = self._hidden_buffers[signature.name].read(int(width) * self.hidden_size, np.float32)
            self.collect_hidden_states(slice(index, index + 1), start, values.reshape(1, -1, self.hidden_size)[:, :real])

    def _decode(self, row: _Row, token: Any, position: int) -> Signature:
        signature = self._steps.decode[min(context for context in self._steps.decode if context > position)]
        feeds = {names.TOKENS: np.array([[token]]), names.INPUT_POS: np.array([position])}
        self._run_row(signature, feeds, row)
        return signature

    def _run_row(self, signature: Signature, feeds: dict[str, Array], row: _Row) -> None:
        """One call over a row's caches and states."""
        feeds = feeds | {names.VALID_LENGTHS: row.valid_length, names.EXTENT: row.extents(feeds[names.INPUT_POS])[None]}
        self._run(signature, feeds, row.caches | row.cross | row.states, row.caches | row.spare_states | {names.LOGITS: self._logits}, row)
        row.states, row.spare_states = row.spare_states, row.states

    def _pieces(self, held: int, count: int) -> Iterator[int]:
        """The buckets that take `count` tokens; 1 stands for a decode step. The last may be padded, where the cache has room for it and
        there are no states."""
        buckets = tuple(sorted(self._steps.prefill))
        if self.has_states:
            yield from _exact_pieces(count, buckets)
            return
        while count:
            room = self._steps.cache_length - held
            fitting = tuple(bucket for bucket in buckets if bucket <= room)
            bucket = 1 if not fitting else fitting[-1] if count >= fitting[-1] else cheapest_pieces(count, fitting)[0]
            yield bucket
            held, count = held + bucket, count - min(bucket, count)

    def _run(self, signature: Signature, feeds: dict[str, Array], caches: Buffers, outputs: Buffers, row: _Row | None = None) -> None:
        if self._model is None:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        if row is not None and row.encoder_mask is not None:
            feeds = feeds | {names.ENCODER_MASK: row.encoder_mask}
        inputs = self._inputs.setdefault(signature.name, {})
        bound: Buffers = {}
        for spec in signature.inputs:
            if spec.name in feeds:
                if spec.name not in inputs:
                    inputs[spec.name] = self._buffer(signature.name, spec.name)
                inputs[spec.name].write(np.ascontiguousarray(feeds[spec.name], numpy_dtype(spec.dtype)))
                bound[spec.name] = inputs[spec.name]
            else:
                bound[spec.name] = caches[spec.name]
        if self.hidden_size and any(spec.name == names.HIDDEN_STATES for spec in signature.outputs):
            outputs = outputs | {names.HIDDEN_STATES: self._hidden_buffer(signature.name)}
        try:
            self._model.run_by_name(signature.name, bound, {spec.name: outputs[spec.name] for spec in signature.outputs})
        except RuntimeError as error:
            raise InternalError("KX556", f"LiteRT failed in `{signature.name}`: {_first_line(error)}", detail=str(error)) from error

    def _hidden_buffer(self, signature: str) -> Any:
        if signature not in self._hidden_buffers:
            self._hidden_buffers[signature] = self._buffer(signature, names.HIDDEN_STATES, of_output=True)
        return self._hidden_buffers[signature]

    def _buffer(self, signature: str, name: str, *, of_output: bool = False) -> Any:
        if self._model is None:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        make: Callable[[str, str], Any] = self._model.create_output_buffer_by_name if of_output else self._model.create_input_buffer_by_name
        return make(signature, name)

    def close(self) -> None:
        with captured_stderr():
            self._inputs, self._hidden_buffers, self._logits = {}, {}, None
            self._model = None

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:  # forgotten: the library would log while it is torn down
            self.close()


@lru_cache(maxsize=4096)
def cheapest_pieces(count: int, buckets: tuple[int, ...]) -> tuple[int, ...]:
    """The buckets, largest first, that take `count` tokens at the least cost; 1 is a decode step. `buckets` in ascending order, not empty."""
    covering = next((bucket for bucket in buckets if bucket >= count), None)
    smaller = [bucket for bucket in (1, *buckets) if bucket < count]
    choices: list[tuple[int, ...]] = [(covering,)] if covering is not None else []
    if count == 1:
        choices.append((1,))
    if smaller:
        choices.append((smaller[-1], *cheapest_pieces(count - smaller[-1], buckets)))
    return min(choices, key=lambda pieces: sum(piece + _CALL_TOKENS for piece in pieces))


def _exact_pieces(count: int, buckets: tuple[int, ...]) -> Iterator[int]:
    """The largest buckets that take `count` tokens without padding; 1 is a decode step."""
    for bucket in sorted({1, *buckets}, reverse=True):
        yield from [bucket] * (count // bucket)
        count %= bucket


@register_engine("tflite")
def open_tflite(directory: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open a TFLite artifact. Raises InvalidInputError (KX555, KX557, KX571) for files or records that do not fit this engine."""
    return TfliteEngine(directory, manifest, options)


def open_model(path: Path, options: EngineOptions) -> CompiledModel:
    """Open a file. What it needs on disk is gone from the directory when this returns: the library has mapped it."""
    with ExitStack() as stack:
        file = stack.enter_context(model_file(path))
        return _load(file, path.name, options, _place_for_packed_weights(stack, file))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """LiteRT's own state, one for all engines of the process: it searches for accelerators when it is made, and logs when it is torn down."""
    return Environment.create(options=EnvironmentOptions(runtime_path=str(Path(ai_edge_litert.__file__).parent)))


def _place_for_packed_weights(stack: ExitStack, file: Path) -> str:
    """Where XNNPACK packs each weight, once for all signatures; without a place it would do so for every one of them.

    A mapped file is the fastest such place: decoding a 125M model took 14 ms a token from one, 16 from private and 20 from shared memory
    (one thread, processor time, alternating rounds), for its pages are larger. Where the disk is short, shared memory it is.
    """
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="kexport-")))
    room = shutil.disk_usage(folder).free
    return str(folder / "weights") if room > _ROOM_FOR_PACKING * file.stat().st_size else _IN_MEMORY


def _load(file: Path, name: str, options: EngineOptions, packed_weights: str) -> CompiledModel:
    threads = options.threads or len(os.sched_getaffinity(0))
    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=packed_weights)
    settings = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    with captured_stderr() as words:
        try:
            model = CompiledModel.from_file(str(file), environment=_environment(), options=settings)
        except (RuntimeError, ValueError) as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        hint = "the file is damaged, or was made for a newer LiteRT (pip install --upgrade ai-edge-litert)"
        detail = f"{failure}\n{words.text()}"
        raise InvalidInputError("KX557", f"LiteRT cannot open `{name}`: {_first_line(failure)}", hint=hint, detail=detail) from failure
    return model


def _read_steps(manifest: Manifest) -> _Steps:
    """The signatures by length. Raises InvalidInputError (KX555) where records do not fit together."""
    kinds: dict[str, dict[int, Signature]] = {names.PREFILL: {}, names.FIRST: {}, names.DECODE: {}, names.ENCODE: {}}
    whole = manifest.signature(names.DECODE)
    if whole is None:
        raise InvalidInputError("KX555", f"the artifact has no `{names.DECODE}` signature", hint="convert the model again")
    slots = [slot for slot in manifest.cache.slots if slot.shared_with is None]
    own, cross = (slot_specs([slot for slot in slots if slot.kind == kind], whole) for kind in ("self", "cross"))
    states = slot_specs(state_slots(manifest), whole)
    lengths = {_sizes(spec)[2] for spec in own} or {manifest.cache.capacity}
    if len(lengths) != 1 or max(lengths) < manifest.cache.capacity:
        raise InvalidInputError("KX555", f"caches of lengths {sorted(lengths)} do not fit a capacity of {manifest.cache.capacity}")
    for signature in manifest.signatures:
        kind, _, length = signature.name.partition("_")
        if kind in kinds and length.isdecimal():
            kinds[kind][int(length)] = signature
    decode = kinds[names.DECODE] | {max(lengths): whole}
    return _Steps(kinds[names.PREFILL], kinds[names.FIRST], decode, kinds[names.ENCODE], own, cross, states, max(lengths))


def read_buffer(buffer: Any, spec: TensorSpec) -> Array:
    """What a buffer of the library holds, as the array that `spec` describes."""
    sizes = _sizes(spec)
    array: Array = buffer.read(int(np.prod(sizes)), numpy_dtype(spec.dtype)).reshape(sizes)
    return array


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    if not all(isinstance(size, int) for size in spec.shape):
        raise InvalidInputError("KX555", f"`{spec.name}` has the shape {spec.shape}; this engine takes fixed sizes only")
    return tuple(int(size) for size in spec.shape)


def _vocabulary_size(signature: Signature) -> int:
    size = next((spec.shape[-1] for spec in signature.outputs if spec.name == names.LOGITS and spec.shape), None)
    if not isinstance(size, int):
        raise InvalidInputError("KX555", f"the `{signature.name}` signature has no `{names.LOGITS}` of a fixed size")
    return size


def _padded(numbers: Array, length: int) -> Array:
    result = np.full(length, _PAD, np.int32)
    result[: len(numbers)] = numbers
    return result


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
