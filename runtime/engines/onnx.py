"""The ONNX engine: onnxruntime on the CPU, one buffer per cache tensor bound as past and as present, so that a step copies no cache.

What an artifact's files take is read from its manifest: token inputs by their names (contract/names.py), cache tensors from the cache
slots. The attention op is `com.microsoft.GroupQueryAttention`, whose rules this file keeps:

- row b's length is the sum of its attention mask, and its new tokens are written right behind what it holds;
- a first prompt may be ragged (right padded) for any number of rows, its attention mask as wide as the tokens;
- several new tokens over a non-empty past go row by row where the manifest says so (`max_batch_with_past`).

States have two buffers each: a call reads one and writes the other, in an order that only the library knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from kexport.runtime.adapters import changed_tensors
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError, InvalidInputError, ResourceError
from kexport.runtime.contract.manifest import Adapter, CacheSlot, Manifest, Signature, TensorSpec
from kexport.runtime.engines.base import (
    CacheState,
    Engine,
    EngineOptions,
    Lengths,
    Logits,
    Tokens,
    check_contents,
    equal_steps,
    hidden_size_of,
    normal_lengths,
    register_engine,
    state_slots,
)
from kexport.runtime.huge_pages import on_huge_pages

Array = npt.NDArray[Any]

_TOKEN_INPUTS = {names.INPUT_IDS, names.ATTENTION_MASK, names.POSITION_IDS, names.ENCODER_ATTENTION_MASK, names.VALID_LENGTHS, names.EXTENT}
_LOG_ERRORS_ONLY = 3
_ONNX_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}  # the numbers of ONNX's element types
_PREFILL_CHUNK = 512  # tokens of one prefill call: longer ones gain no speed and their temporaries grow with the square
_NO_IDLE_ROW = np.zeros(1, bool)
_TOLERATED_PADDING = 1.25  # a ragged prompt goes in one call while padded tokens stay below this multiple of the real ones


@dataclass(frozen=True)
class _CacheTensor:
    """One cache tensor of the step: the names it is bound to, and its shape as sizes, `batch`, and the name of its length axis."""

    spec: TensorSpec
    output: str | None  # None: read only (cross-attention)
    length_axis: int

    def allocate(self, batch_size: int, length: int) -> Array:
        """Zeros; the system gives pages only for what is written."""
        sizes = {names.BATCH: batch_size}
        shape = [size if isinstance(size, int) else sizes.get(size, length) for size in self.spec.shape]
        return np.zeros(shape, numpy_dtype(self.spec.dtype))

    def used(self, array: Array, length: int) -> Array:
        """The view of the first `length` positions of all rows."""
        return array[(slice(None),) * self.length_axis + (slice(0, length),)]


@dataclass(frozen=True)
class _StateTensor:
    """One state of the step: the names it is bound to, its dtype, and its shape without the batch axis."""

    name: str
    output: str
    dtype: str
    shape: tuple[int, ...]

    def allocate(self, batch_size: int) -> Array:
        """The state before the first token."""
        return np.zeros((batch_size, *self.shape), numpy_dtype(self.dtype))


@dataclass(frozen=True)
class _Layout:
    """What the step signature takes and gives, apart from the tensors every step has."""

    self_tensors: tuple[_CacheTensor, ...]
    cross_tensors: tuple[_CacheTensor, ...]
    states: tuple[_StateTensor, ...]
    inputs: frozenset[str]
    logits_of_all_positions: bool
    hidden_size: int


class _Binding:
    """The step bound to some rows of a cache: its cache tensors once for all, its token inputs per call."""

    def __init__(self, session: ort.InferenceSession, layout: _Layout, cache: OnnxCache, rows: slice, vocabulary_size: int) -> None:
        self._session, self._layout = session, layout
        self._io = session.io_binding()
        self._held: dict[str, ort.OrtValue] = {}  # onnxruntime does not keep bound memory alive
        self._row_count = len(range(*rows.indices(cache.batch_size)))
        self._vocabulary_size = vocabulary_size
        self._logits = np.empty((0, 0, 0), np.float32)
        self.hidden_states = np.empty((self._row_count, 0, layout.hidden_size), np.float32)  # of the last run, where the artifact gives them
        self._one_token = np.zeros((self._row_count, 1), np.int64)
        self._one_position = np.zeros((self._row_count, 1), np.int64)
        self._bound_width = 0
        self.valid_lengths = np.zeros(self._row_count, np.int32)  # written before each run
        self.extents = np.zeros((self._row_count, 0), np.int32)  # set before each run
        if names.VALID_LENGTHS in layout.inputs:
            self._bind_input(names.VALID_LENGTHS, self.valid_lengths)
        for tensor, array in zip(layout.self_tensors, cache.self_arrays, strict=True):
            value = self._bind_input(tensor.spec.name, array[rows])
            self._io.bind_ortvalue_output(tensor.output, value)
        for state, past, present in zip(layout.states, cache.states, cache.spare_states, strict=True):
            self._bind_input(state.name, past[rows])
            self._held[state.output] = value = ort.OrtValue.ortvalue_from_numpy(present[rows])
            self._io.bind_ortvalue_output(state.output, value)
        for tensor, array in zip(layout.cross_tensors, cache.cross_arrays, strict=True):
            self._bind_input(tensor.spec.name, array[rows])
        if names.ENCODER_ATTENTION_MASK in layout.inputs:
            self._bind_input(names.ENCODER_ATTENTION_MASK, cache.encoder_mask[rows])

    def run(self, tokens: Array, attention_mask: Array, positions: Array | int) -> Array:
        """Logits [rows, 1 or sequence, vocabulary] in a buffer that the next run overwrites."""
        width = tokens.shape[1]
        if width != self._bound_width:
            self._bind_width(tokens, positions)
        if width == 1:
            self._one_token[:] = tokens
            self._one_position[:] = positions
        if names.ATTENTION_MASK in self._layout.inputs:
            self._bind_input(names.ATTENTION_MASK, attention_mask)
        if names.EXTENT in self._layout.inputs:
            self._bind_input(names.EXTENT, self.extents)
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise InternalError("KX556", f"onnxruntime failed: {_first_line(error)}", detail=str(error)) from error
        return self._logits

    def _bind_width(self, tokens: Array, positions: Array | int) -> None:
        """Bind token inputs and logits for another number of tokens; those of one token are kept and written in place."""
        width = tokens.shape[1]
        single = width == 1
        self._bind_input(names.INPUT_IDS, self._one_token if single else np.ascontiguousarray(tokens, np.int64))
        if names.POSITION_IDS in self._layout.inputs:
            self._bind_input(names.POSITION_IDS, self._one_position if single else np.ascontiguousarray(positions, np.int64))
        shape = (self._row_count, width if self._layout.logits_of_all_positions else 1, self._vocabulary_size)
        if self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
            value = ort.OrtValue.ortvalue_from_numpy(self._logits)
            self._held[names.LOGITS] = value
            self._io.bind_ortvalue_output(names.LOGITS, value)
        if self._layout.hidden_size and self.hidden_states.shape[1] != width:
            self.hidden_states = np.empty((self._row_count, width, self._layout.hidden_size), np.float32)
            value = ort.OrtValue.ortvalue_from_numpy(self.hidden_states)
            self._held[names.HIDDEN_STATES] = value
            self._io.bind_ortvalue_output(names.HIDDEN_STATES, value)
        self._bound_width = 1 if single else 0  # the buffers of several tokens are the caller's: bound anew each time

    def _bind_input(self, name: str, array: Array) -> ort.OrtValue:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._held[name] = value
        self._io.bind_ortvalue_input(name, value)
        return value


@dataclass(frozen=True)
class _Snapshot:
    """Contents of the self caches up to the longest row, and of the states; cross caches are never written in place, so a reference is enough."""

    contents: list[Array]
    states: list[Array]
    lengths: Lengths
    cross_arrays: list[Array]
    encoder_mask: Array


class OnnxCache(CacheState):
    """Numpy buffers of the whole capacity, [batch, key-value heads, capacity, head dim] each, which onnxruntime writes in place."""

    def __init__(self, layout: _Layout, batch_size: int, capacity: int) -> None:
        self._layout = layout
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.self_arrays = [tensor.allocate(batch_size, capacity) for tensor in layout.self_tensors]
        self.states = [state.allocate(batch_size) for state in layout.states]
        self.spare_states = [state.allocate(batch_size) for state in layout.states]  # what the next call writes
        self.turn = 0  # changes whenever the two change places
        self.has_states = bool(layout.states)
        self.cross_arrays: list[Array] = []
        self.encoder_mask = np.zeros((batch_size, 0), np.int64)
        self.bindings: dict[tuple[int | None, int], _Binding] = {}
        self.ones = np.ones((1, capacity if batch_size == 1 else 0), np.int64)  # a single row's attention mask, as wide as it can get

    def can_step(self) -> bool:
        """A single row that holds tokens, has room for one more and has its encoder's caches, if there are any."""
        return self.batch_size == 1 and (None, self.turn) in self.bindings and 0 < self.lengths.item() < self.ones.shape[1]

    def set_cross(self, arrays: list[Array], encoder_mask: Array) -> None:
        """Take the encoder's caches and its mask [batch, encoder sequence]."""
        self.cross_arrays, self.encoder_mask = arrays, encoder_mask
        self.bindings.clear()

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        order = np.asarray(rows, np.int64)
        if np.array_equal(order, np.arange(self.batch_size)):
            return
        longest = int(self.lengths[order].max(initial=0))
        contents = [tensor.used(array, longest)[order] for tensor, array in zip(self._layout.self_tensors, self.self_arrays, strict=True)]
        self._replace(contents, [array[order] for array in self.states], self.lengths[order])
        if self.cross_arrays:
            self.set_cross([np.ascontiguousarray(array[order]) for array in self.cross_arrays], self.encoder_mask[order])

    def snapshot(self) -> object:
        longest = int(self.lengths.max(initial=0))
        contents = [tensor.used(array, longest).copy() for tensor, array in zip(self._layout.self_tensors, self.self_arrays, strict=True)]
        return _Snapshot(contents, [array.copy() for array in self.states], self.lengths.copy(), self.cross_arrays, self.encoder_mask)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self._replace(snapshot.contents, snapshot.states, snapshot.lengths)
        if snapshot.cross_arrays is not self.cross_arrays:
            self.set_cross(snapshot.cross_arrays, snapshot.encoder_mask)

    def take_states(self, row: int | None, idle: npt.NDArray[np.bool_]) -> None:
        """Let the states be what a call wrote for `row`, or, `row` None, for all rows but the `idle` ones."""
        if not self.states:
            return
        if row is not None:
            for array, written in zip(self.states, self.spare_states, strict=True):
                array[row] = written[row]
            return
        self.states, self.spare_states, self.turn = self.spare_states, self.states, 1 - self.turn
        if idle.any():
            for array, before in zip(self.states, self.spare_states, strict=True):
                array[idle] = before[idle]

    def _replace(self, contents: list[Array], states: list[Array], lengths: Lengths) -> None:
        """Write `contents` and `states` into the buffers; into new ones where the number of rows changes."""
        if len(lengths) != self.batch_size:
            self.self_arrays = [tensor.allocate(len(lengths), self.capacity) for tensor in self._layout.self_tensors]
            self.states, self.spare_states = ([state.allocate(len(lengths)) for state in self._layout.states] for _ in range(2))
            self.bindings.clear()
        for tensor, array, content in zip(self._layout.self_tensors, self.self_arrays, contents, strict=True):
            tensor.used(array, content.shape[tensor.length_axis])[...] = content
        for array, content in zip(self.states, states, strict=True):
            array[...] = content
        self.lengths = lengths.copy()


class OnnxEngine(Engine):
    """One artifact opened with onnxruntime."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        step = manifest.signature(names.EXTEND)
        if step is None:
            raise InvalidInputError("KX555", f"the artifact has no `{names.EXTEND}` signature", hint="convert the model again")
        self._layout = _read_layout(manifest, step)
        self._capacity = manifest.cache.capacity
        self._rows_with_past = step.max_batch_with_past
        self._longest = min(step.max_sequence or _PREFILL_CHUNK, _PREFILL_CHUNK)
        self.vocabulary_size = _vocabulary_size(manifest, step)
        self.describe(step)
        self._encode_signature = manifest.signature(names.ENCODE)
        self._encoder = open_session(directory / self._encode_signature.file, options) if self._encode_signature else None
        self._session: ort.InferenceSession | None = open_session(directory / step.file, options)
        self._directory, self._options, self._step_file = directory, options, step.file
        self._adapter: Adapter | None = None
        self._replaced: dict[str, dict[str, ort.OrtValue]] = {}  # onnxruntime does not keep their memory alive
        cross_slots = [slot for slot in manifest.cache.slots if slot.kind == "cross" and slot.shared_with is None]
        self._cross_outputs = [output for slot in cross_slots for output in slot.outputs]

    def new_cache(self, batch_size: int, capacity: int) -> OnnxCache:
        if batch_size < 1 or capacity < 1 or (self._capacity and capacity > self._capacity):
            hint = f"this artifact serves up to {self._capacity} tokens; convert again with a larger --max-length"
            raise InvalidInputError("KX553", f"cannot make a cache of {batch_size} rows and {capacity} tokens", hint=hint)
        try:
            return OnnxCache(self._layout, batch_size, capacity)
        except MemoryError as error:
            message = f"there is no memory for caches of {batch_size} rows and {capacity} tokens"
            raise ResourceError("KX605", message, hint="ask for fewer rows or a smaller max_length") from error

    def encode(self, tokens: Tokens, padding_mask: npt.NDArray[np.bool_], cache: CacheState) -> None:
        if self._encoder is None or self._encode_signature is None:
            super().encode(tokens, padding_mask, cache)  # raises
            return
        assert isinstance(cache, OnnxCache)
        width = _last_real_column(padding_mask)
        mask = np.ascontiguousarray(padding_mask[:, :width], np.int64)
        feeds = {names.INPUT_IDS: np.ascontiguousarray(tokens[:, :width], np.int64), names.ATTENTION_MASK: mask}
        io = self._encoder.io_binding()
        inputs = {spec.name for spec in self._encode_signature.inputs}
        held = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items() if name in inputs}
        for name, value in held.items():
            io.bind_ortvalue_input(name, value)
        arrays = [tensor.allocate(cache.batch_size, width) for tensor in self._layout.cross_tensors]
        outputs = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        for name, value in zip(self._cross_outputs, outputs, strict=True):
            io.bind_ortvalue_output(name, value)
        try:
            self._encoder.run_with_iobinding(io)
        except Exception as error:  # onnxruntime's exceptions have no common base
            message = f"the encoder refuses a prompt of {width} tokens: {_first_line(error)}"
            raise InvalidInputError("KX560", message, hint="shorten the encoder's prompt", detail=str(error)) from error
        cache.set_cross(arrays, mask)

    def extend(self, cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None = None) -> Logits:
        assert isinstance(cache, OnnxCache)
        if lengths is None and tokens.shape == (1, 1) and cache.can_step():
            return self._step(cache, tokens)
        counts = normal_lengths(cache, tokens, lengths)
        if self._layout.cross_tensors and not cache.cross_arrays:
            raise InvalidInputError("KX552", "the encoder prompt is missing", hint="call `encode` before `extend`")
        width = int(counts.max(initial=0))
        if width == 0:
            return np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        if cache.has_states:
            return self._extend_in_equal_steps(cache, tokens, counts)
        if self._goes_in_one_call(cache, counts, width):
            return self._extend_rows(cache, None, tokens[:, :width], counts)
        return self._extend_row_by_row(cache, tokens, counts)

    def fill(self, cache: CacheState, contents: Sequence[Sequence[Array]]) -> None:
        assert isinstance(cache, OnnxCache)
        lengths = check_contents(cache, contents, len(cache.self_arrays))
        for row, parts in enumerate(contents):
            for array, part in zip(cache.self_arrays, parts, strict=False):  # heads may be stored wider than they are: the rest stays zero
                array[row, :, : part.shape[0], : part.shape[2]] = part.transpose(1, 0, 2)
        cache.lengths[:] = lengths

    def set_adapter(self, adapter: Adapter | None) -> None:
        if self._session is None:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        own = {self._step_file, *([self._encode_signature.file] if self._encode_signature else [])}
        files = own & {tensor.file for chosen in (self._adapter, adapter) if chosen is not None for tensor in chosen.tensors}
        replaced = {file: replaced_initializers(self._directory, adapter, file) for file in files}
        if self._encode_signature is not None and self._encode_signature.file in files:
            self._encoder = None  # the old weights go before the new ones come
            file = self._encode_signature.file
            self._encoder = open_session(self._directory / file, self._options, replaced[file])
        if self._step_file in files:
            self._session = None
            self._session = open_session(self._directory / self._step_file, self._options, replaced[self._step_file])
        self._adapter, self._replaced = adapter, replaced

    def close(self) -> None:
        self._session = self._encoder = None
        self._replaced = {}

    def _step(self, cache: OnnxCache, tokens: Tokens) -> Logits:
        """One token of one row that has had its prompt: what a decode step needs and nothing else. Between two steps the weights flush this
        process's own code and data out of the processor's caches, so that each line costs microseconds (measured: 350 the general way)."""
        held = cache.lengths.item()
        binding = self._binding(cache, None)
        if self.takes_extents:
            binding.extents = cache.extents(cache.lengths[:, None])
        logits = binding.run(tokens, cache.ones[:, : held + 1], held)
        self.collect_hidden_states(slice(None), 0, binding.hidden_states)
        cache.take_states(None, _NO_IDLE_ROW)
        cache.lengths[0] = held + 1
        return logits[:, 0].copy()

    def _goes_in_one_call(self, cache: OnnxCache, counts: Lengths, width: int) -> bool:
        """Whether all rows can and should go in the same call."""
        if width == 1:
            idle_and_full = (counts == 0) & (cache.lengths == cache.capacity)
            return not idle_and_full.any()  # an idle row needs one free place for a token that does not count
        if width > self._longest or (counts == 0).any():
            return False
        if width * cache.batch_size > _TOLERATED_PADDING * int(counts.sum()):
            return False
        limit = self._rows_with_past
        return limit is None or cache.batch_size <= limit or not cache.lengths.any()

    def _extend_in_equal_steps(self, cache: OnnxCache, tokens: Tokens, counts: Lengths) -> Logits:
        """Columns in which a row has tokens in all or in none: states take whatever stands in a call."""
        logits = np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        for start, stop in equal_steps(counts, self._longest):
            part, taken = tokens[:, start:stop], np.where(counts >= stop, stop - start, 0)
            if self._goes_in_one_call(cache, taken, stop - start):
                step = self._extend_rows(cache, None, part, taken, start)
                logits[counts == stop] = step[counts == stop]
                continue
            for row in np.flatnonzero(taken).tolist():
                logits[row] = self._extend_rows(cache, row, part[row : row + 1], taken[row : row + 1], start)[0]
        return logits

    def _extend_row_by_row(self, cache: OnnxCache, tokens: Tokens, counts: Lengths) -> Logits:
        logits = np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        for row, count in enumerate(counts.tolist()):
            for start in range(0, count, self._longest):
                chunk = tokens[row : row + 1, start : min(start + self._longest, count)]
                logits[row] = self._extend_rows(cache, row, chunk, np.array([chunk.shape[1]]), start)[0]
        return logits

    def _extend_rows(self, cache: OnnxCache, row: int | None, tokens: Tokens, counts: Lengths, start: int = 0) -> Logits:
        """One call of the library for one row, or for all rows (`row` None). `start`: the column of this `extend` that `tokens` begin at."""
        rows = slice(None) if row is None else slice(row, row + 1)
        held = cache.lengths[rows]
        fed = held + np.maximum(counts, 1)
        columns = np.arange(tokens.shape[1])
        positions = np.minimum(held[:, None] + columns, fed[:, None] - 1)
        binding = self._binding(cache, row)
        binding.extents = cache.extents(positions)
        logits = binding.run(tokens, _attention_mask(fed), positions)
        self.collect_hidden_states(rows, start, binding.hidden_states)
        cache.take_states(None if cache.batch_size == 1 else row, counts == 0)
        held += counts  # a view: the cache's own lengths
        if not self._layout.logits_of_all_positions:
            return logits[:, 0].copy()
        last: Logits = np.take_along_axis(logits, np.maximum(counts, 1)[:, None, None] - 1, axis=1)[:, 0]
        return last

    def _binding(self, cache: OnnxCache, row: int | None) -> _Binding:
        if self._session is None:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        row = None if cache.batch_size == 1 else row
        key = (row, cache.turn)
        binding, rows = cache.bindings.get(key), slice(None) if row is None else slice(row, row + 1)
        if binding is None:
            if row is not None:
                _drop_row_bindings(cache)  # one row's binding at a time is enough: rows are fed one after the other
            binding = cache.bindings[key] = _Binding(self._session, self._layout, cache, rows, self.vocabulary_size)
        if self.marks_padding:
            binding.valid_lengths[:] = self.valid_lengths_of(cache, rows)
        return binding


@register_engine("onnx")
def open_onnx(directory: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open an ONNX artifact. Raises InvalidInputError (KX555, KX557) for files or records that do not fit this engine."""
    return OnnxEngine(directory, manifest, options)


def replaced_initializers(directory: Path, adapter: Adapter | None, file: str) -> dict[str, ort.OrtValue]:
    """What takes the place of the file's own initializers, by name."""
    if adapter is None:
        return {}
    return {
        tensor.name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_TYPES[tensor.dtype])
        for tensor, array in changed_tensors(directory, adapter, file)
    }


def open_session(path: Path, options: EngineOptions, replaced: Mapping[str, ort.OrtValue] | None = None) -> ort.InferenceSession:
    """A session, for any signature of the artifact; `replaced` stand for initializers of the file. Raises InvalidInputError (KX557) where
    onnxruntime cannot open the file.

    Threads spin between operators, onnxruntime's own default: on idle cores sleeping costs a tenth of a decode step."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _LOG_ERRORS_ONLY
    settings.inter_op_num_threads = 1
    settings.enable_mem_pattern = False  # it keeps one plan per shape, and the attention mask's grows with every token
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.low_memory:
        settings.add_session_config_entry("session.disable_prepacking", "1")  # weights stay mapped from the file
    if replaced:
        settings.add_external_initializers(list(replaced), list(replaced.values()))
    try:
        with contextlib.nullcontext() if options.low_memory else on_huge_pages():
            return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        hint = "the file is damaged, or was made for a newer onnxruntime (pip install --upgrade onnxruntime)"
        raise InvalidInputError(
            "KX557", f"onnxruntime cannot open `{path.name}`: {_first_line(error)}", hint=hint, detail=str(error)
        ) from error


def _read_layout(manifest: Manifest, step: Signature) -> _Layout:
    """What to bind, from the manifest. Raises InvalidInputError (KX555) where records do not fit together."""
    inputs = {spec.name: spec for spec in step.inputs}
    outputs = {spec.name for spec in step.outputs}
    slots = [slot for slot in manifest.cache.slots if slot.shared_with is None]
    self_tensors = [tensor for slot in slots if slot.kind == "self" for tensor in _cache_tensors(slot, inputs, outputs)]
    cross_tensors = [tensor for slot in slots if slot.kind == "cross" for tensor in _cache_tensors(slot, inputs, None)]
    states = [_state_tensor(slot, inputs, outputs) for slot in state_slots(manifest)]
    known = _TOKEN_INPUTS | {tensor.spec.name for tensor in (*self_tensors, *cross_tensors)} | {state.name for state in states}
    unknown = sorted(set(inputs) - known)
    if unknown:
        raise InvalidInputError("KX555", f"this engine cannot fill the input `{unknown[0]}`", hint="pip install --upgrade kexport")
    if names.INPUT_IDS not in inputs or names.LOGITS not in outputs:
        raise InvalidInputError("KX555", f"the `{step.name}` signature lacks `{names.INPUT_IDS}` or `{names.LOGITS}`")
    cache_tensors = (tuple(self_tensors), tuple(cross_tensors), tuple(states))
    return _Layout(*cache_tensors, frozenset(inputs), step.returns_logits == "all", hidden_size_of(step))


def _state_tensor(slot: CacheSlot, inputs: dict[str, TensorSpec], outputs: set[str]) -> _StateTensor:
    (name,), (output,) = slot.inputs, slot.outputs
    spec = inputs.get(name)
    if spec is None or output not in outputs or spec.shape != (names.BATCH, *slot.shape):
        raise InvalidInputError("KX555", f"the state `{slot.name}` names tensors that its signature does not have")
    return _StateTensor(name, output, spec.dtype, slot.shape)


def _cache_tensors(slot: CacheSlot, inputs: dict[str, TensorSpec], outputs: set[str] | None) -> list[_CacheTensor]:
    """The tensors of one slot. `outputs` None: they are read only in this signature."""
    result = []
    for position, name in enumerate(slot.inputs):
        spec = inputs.get(name)
        output = slot.outputs[position] if outputs is not None and position < len(slot.outputs) else None
        if spec is None or (outputs is not None and output not in outputs):
            raise InvalidInputError("KX555", f"cache slot `{slot.name}` names tensors that its signature does not have")
        axes = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str) and size != names.BATCH]
        if len(axes) != 1 or not spec.shape or spec.shape[0] != names.BATCH:
            raise InvalidInputError("KX555", f"the cache tensor `{name}` has the shape {spec.shape}; one length axis is wanted")
        result.append(_CacheTensor(spec, output, axes[0]))
    return result


def _vocabulary_size(manifest: Manifest, step: Signature) -> int:
    size = next((spec.shape[-1] for spec in step.outputs if spec.name == names.LOGITS and spec.shape), None)
    if isinstance(size, int):
        return size
    if manifest.generation.vocabulary_size < 1:
        raise InvalidInputError("KX555", "the manifest does not say how large the vocabulary is", hint="convert the model again")
    return manifest.generation.vocabulary_size


def _attention_mask(fed: Lengths) -> Array:
    """1 on the tokens that each row will hold, [rows, longest]."""
    if len(fed) == 1:
        return np.ones((1, int(fed[0])), np.int64)
    mask: Array = np.arange(int(fed.max())) < fed[:, None]
    return mask.astype(np.int64)


def _last_real_column(mask: npt.NDArray[np.bool_]) -> int:
    """The width without the columns at the end that are padding in every row; at least 1."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1]) + 1 if columns.size else 1


def _drop_row_bindings(cache: OnnxCache) -> None:
    for key in [key for key in cache.bindings if key[0] is not None]:
        del cache.bindings[key]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
