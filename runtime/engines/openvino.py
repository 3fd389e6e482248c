"""The OpenVINO engine: one infer request a cache, whose state holds the keys and values of all rows side by side.

The rules of the artifact's files that this engine keeps:

- the state grows by the columns of every call, for all rows alike, and attention goes by columns: a row's tokens must stand next to each
  other and end at the last column (`OpenVinoCache.aligned`), its attention mask 1 on them and 0 on everything before;
- so a ragged first prompt is padded on the left; later calls go in steps of equally many tokens, in which the rows that are done feed
  padding, and a row that fell behind that way is moved to the right (`align`) before it goes on;
- `beam_idx` lets each row continue any row of the state: a reorder costs nothing until the next call;
- states of recurrent layers would take padding for tokens: with them no row is padded, and rows that have no tokens in a step stay out
  of its call (`without_others`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from kexport.runtime.adapters import changed_tensors
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, InvalidInputError
from kexport.runtime.contract.manifest import Adapter, CacheSlot, Manifest, Signature
from kexport.runtime.engines.base import (
    CacheState,
    Engine,
    EngineOptions,
    Lengths,
    Logits,
    Tokens,
    check_contents,
    equal_steps,
    normal_lengths,
    register_engine,
    state_slots,
)
from kexport.runtime.huge_pages import on_huge_pages
from openvino import opset13 as op

Array = npt.NDArray[Any]

_DEVICE = "CPU"
_PREFILL_CHUNK = 512  # tokens of one call: longer ones gain no speed and the masks of a call grow with the square
_WASTEFUL = 2  # times as many columns as the longest row has tokens: then moving the state is cheaper than attending to nothing
_TOKEN_INPUTS = {
    names.INPUT_IDS, names.ATTENTION_MASK, names.POSITION_IDS, names.BEAM_INDEX, names.ENCODER_ATTENTION_MASK, names.VALID_LENGTHS, names.EXTENT,
}  # fmt: skip
_LENGTH_AXIS = 2
# Exact tokens need float32 everywhere; by default the plugin keeps an 8-bit cache and multiplies in bfloat16 where the CPU can.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


@dataclass(frozen=True)
class _Layout:
    """What the step takes: its inputs by name, the names of the states with keys and values and of recurrent layers, and of its cross-attention
    inputs with what the encoder calls them."""

    inputs: frozenset[str]
    states: tuple[str, ...]
    recurrent: frozenset[str]
    cross: tuple[tuple[str, str], ...]
    logits_of_all_positions: bool


@dataclass(frozen=True)
class _Snapshot:
    states: dict[str, Array]
    mask: Array
    lengths: Lengths
    aligned: npt.NDArray[np.bool_]
    cross: list[Array]
    encoder_mask: Array


class OpenVinoCache(CacheState):
    """The state of one infer request.

    `mask` [batch, columns]: 1 where a column of the state holds a token of the row. `order`: the row of the state that each row continues
    at the next call, None for its own. `aligned[b]`: row b's tokens stand next to each other and end at the last column.
    """

    def __init__(self, request: ov.InferRequest, layout: _Layout, batch_size: int, capacity: int) -> None:
        self._request, self._layout = request, layout
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.mask = np.zeros((batch_size, 0), np.int64)
        self.aligned = np.ones(batch_size, bool)
        self.order: Array | None = None
        self.has_states = bool(layout.recurrent)
        self.cross: list[Array] = []
        self.encoder_mask = np.zeros((batch_size, 0), np.int64)
        request.reset_state()

    # ---- contents

    def set_cross(self, arrays: list[Array], encoder_mask: Array) -> None:
        """Take the encoder's caches and its mask [batch, encoder sequence]."""
        self.cross, self.encoder_mask = arrays, encoder_mask
        for (name, _), array in zip(self._layout.cross, arrays, strict=True):
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        if names.ENCODER_ATTENTION_MASK in self._layout.inputs:
            self._request.set_tensor(names.ENCODER_ATTENTION_MASK, ov.Tensor(encoder_mask, shared_memory=True))

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        chosen = np.asarray(rows, np.int64)
        if np.array_equal(chosen, np.arange(self.batch_size)):
            return
        if self.mask.shape[1]:  # before the first call there is nothing to order
            self.order = chosen if self.order is None else self.order[chosen]
        self.lengths, self.mask, self.aligned = self.lengths[chosen], self.mask[chosen], self.aligned[chosen]
        if self.cross:
            self.set_cross([np.ascontiguousarray(array[chosen]) for array in self.cross], np.ascontiguousarray(self.encoder_mask[chosen]))

    def snapshot(self) -> object:
        return _Snapshot(self._contents(), self.mask.copy(), self.lengths.copy(), self.aligned.copy(), self.cross, self.encoder_mask)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self._replace(snapshot.states, snapshot.mask.copy())
        self.lengths, self.aligned = snapshot.lengths.copy(), snapshot.aligned.copy()
        if snapshot.cross is not self.cross:
            self.set_cross(snapshot.cross, snapshot.encoder_mask)

    def step_back(self, lengths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        shortened = self.lengths.copy()
        super().step_back(lengths)
        keeps = np.cumsum(self.mask, axis=1) <= self.lengths[:, None]
        self.mask = self.mask * keeps
        self.aligned &= (shortened == self.lengths) | (self.lengths == 0)

    def set_contents(self, contents: Sequence[Sequence[Array]], lengths: Lengths, width: int) -> None:
        """Hold these rows, each [tokens, heads, dim] a state, at the right end of `width` columns."""
        first = next(row for row in contents if row)
        states: dict[str, Array] = {}
        for index, name in enumerate(self._layout.states):
            _, heads, dim = first[index].shape
            states[name] = np.zeros((self.batch_size, heads, width, dim), np.float32)
            for row, parts in enumerate(contents):
                if parts:
                    states[name][row, :, width - lengths[row] :] = parts[index].transpose(1, 0, 2)
        self._replace(states, (np.arange(width) >= width - lengths[:, None]).astype(np.int64))
        self.lengths, self.aligned = lengths.copy(), np.ones(self.batch_size, bool)

    def drop_rows_that_hold_nothing(self) -> None:
        """Start over without the columns that no row needs, where all rows are empty."""
        if self.mask.shape[1] and not self.lengths.any():
            self._replace({}, np.zeros((self.batch_size, 0), np.int64))

    def align(self) -> None:
        """Move every row's tokens to the right end, without holes, and forget columns that no row needs."""
        contents, width = self._contents(), int(self.lengths.max(initial=0))
        recurrent = self._layout.recurrent
        moved = {name: array if name in recurrent else self._aligned_copy(array, width) for name, array in contents.items()}
        columns = np.arange(width)
        self._replace(moved, (columns >= width - self.lengths[:, None]).astype(np.int64))
        self.aligned[:] = True

    def _aligned_copy(self, array: Array, width: int) -> Array:
        batch, heads, _, dim = array.shape
        result = np.zeros((batch, heads, width, dim), array.dtype)
        for row in range(batch):
            tokens = array[row][:, self.mask[row].astype(bool)]
            result[row, :, width - tokens.shape[1] :] = tokens
        return result

    def _contents(self) -> dict[str, Array]:
        """Copies of the states ([batch, heads, columns, dim] where they are keys and values), a pending reorder applied; nothing before the
        first call."""
        if not self.mask.shape[1]:
            return {}
        states = {state.name: np.array(state.state.data) for state in self._request.query_state()}
        return states if self.order is None else {name: array[self.order] for name, array in states.items()}

    def _replace(self, states: dict[str, Array], mask: Array) -> None:
        """Write the states, or forget them where there are none."""
        self.mask, self.order = mask, None
        if not states or not mask.shape[1]:
            self._request.reset_state()
            return
        for state in self._request.query_state():
            state.state = ov.Tensor(np.ascontiguousarray(states[state.name]), shared_memory=False)

    # ---- one call

    @contextlib.contextmanager
    def without_others(self, running: npt.NDArray[np.bool_], width: int) -> Iterator[None]:
        """For one call of `width` columns: only the `running` rows are in the cache. The others stand beside padding afterwards, their states
        as they were."""
        before, mask, lengths, aligned = self._contents(), self.mask, self.lengths, self.aligned
        encoder = self.cross, self.encoder_mask
        self.reorder(np.flatnonzero(running))
        yield
        merged = {name: self._merged(before.get(name), array, running, name) for name, array in self._contents().items()}
        whole = np.concatenate([mask, np.zeros((len(running), width), np.int64)], axis=1)
        whole[running] = self.mask
        lengths[running], aligned[running] = self.lengths, self.aligned
        self.lengths, self.aligned = lengths, aligned & (running | (lengths == 0))
        self._replace(merged, whole)
        if self.cross:
            self.set_cross(*encoder)

    def _merged(self, before: Array | None, after: Array, running: npt.NDArray[np.bool_], name: str) -> Array:
        """A state of all rows from what the running ones have after a call; `before` None: it was the first."""
        result = np.zeros((len(running), *after.shape[1:]), after.dtype)
        if before is not None and name in self._layout.recurrent:
            result[:] = before
        elif before is not None:
            result[:, :, : before.shape[_LENGTH_AXIS]] = before
        result[running] = after
        return result

    def run(self, tokens: Array, real: Array, positions: Array, valid: Array) -> Array:
        """Append columns: `tokens` and `positions` [batch, columns], `real` 1 on tokens that count, `valid` [batch] where padding starts. Returns
        float32 logits [batch, 1 or columns, vocabulary], a view that the next call overwrites."""
        self.mask = np.concatenate([self.mask, real], axis=1)
        order = np.arange(self.batch_size) if self.order is None else self.order
        feeds = {
            names.INPUT_IDS: np.ascontiguousarray(tokens, np.int64),
            names.ATTENTION_MASK: self.mask,
            names.POSITION_IDS: np.ascontiguousarray(positions, np.int64),
            names.BEAM_INDEX: order.astype(np.int32),
            names.VALID_LENGTHS: valid,
            names.EXTENT: self.extents(positions),
        }
        try:
            for name, array in feeds.items():
                if name in self._layout.inputs:
                    self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise InternalError("KX556", f"openvino failed: {_last_line(error)}", detail=str(error)) from error
        self.order = None
        logits: Array = self._request.get_tensor(names.LOGITS).data
        return logits

    def hidden_states(self) -> Array:
        """Of the last run's columns, [batch, columns, hidden size]: a view that the next call overwrites."""
        values: Array = self._request.get_tensor(names.HIDDEN_STATES).data
        return values


class OpenVinoEngine(Engine):
    """One artifact opened with OpenVINO's CPU plugin."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        step = manifest.signature(names.EXTEND)
        if step is None:
            raise InvalidInputError("KX555", f"the artifact has no `{names.EXTEND}` signature", hint="convert the model again")
        self._capacity, self._encoder_capacity = manifest.cache.capacity, manifest.cache.encoder_capacity
        self._layout = _read_layout(manifest, step)
        self._longest = min(step.max_sequence or _PREFILL_CHUNK, _PREFILL_CHUNK)
        self.vocabulary_size = _vocabulary_size(manifest, step)
        self.describe(step)
        self._core, self._directory, self._options, self._step_file = ov.Core(), directory, options, step.file
        self._adapter: Adapter | None = None
        self._model: ov.CompiledModel | None = None
        self._open_step()
        encode = manifest.signature(names.ENCODE)
        self._encoder_file = encode.file if encode else ""
        self._encoder = compile_model(self._core, directory / encode.file, options) if encode else None

    def new_cache(self, batch_size: int, capacity: int) -> OpenVinoCache:
        if batch_size < 1 or capacity < 1 or (self._capacity and capacity > self._capacity):
            hint = f"this artifact serves up to {self._capacity} tokens; convert again with a larger --max-length"
            raise InvalidInputError("KX553", f"cannot make a cache of {batch_size} rows and {capacity} tokens", hint=hint)
        return OpenVinoCache(self._open_model().create_infer_request(), self._layout, batch_size, capacity)

    def encode(self, tokens: Tokens, padding_mask: npt.NDArray[np.bool_], cache: CacheState) -> None:
        if self._encoder is None:
            super().encode(tokens, padding_mask, cache)  # raises
            return
        assert isinstance(cache, OpenVinoCache)
        width = _last_real_column(padding_mask)
        if 0 < self._encoder_capacity < width:  # OpenVINO reads zeros beyond a table's end, without a word
            message = f"an encoder prompt of {width} tokens; this artifact takes {self._encoder_capacity}"
            raise InvalidInputError("KX560", message, hint="shorten the encoder's prompt")
        mask = np.ascontiguousarray(padding_mask[:, :width], np.int64)
        feeds = {names.INPUT_IDS: np.ascontiguousarray(tokens[:, :width], np.int64), names.ATTENTION_MASK: mask}
        request = self._encoder.create_infer_request()
        try:
            for tensor in self._encoder.inputs:
                request.set_tensor(tensor, ov.Tensor(feeds[tensor.get_any_name()], shared_memory=True))
            request.infer()
        except RuntimeError as error:
            message = f"the encoder refuses a prompt of {width} tokens: {_last_line(error)}"
            raise InvalidInputError("KX560", message, hint="shorten the encoder's prompt", detail=str(error)) from error
        cache.set_cross([np.array(request.get_tensor(output).data) for _, output in self._layout.cross], mask)

    def extend(self, cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None = None) -> Logits:
        assert isinstance(cache, OpenVinoCache)
        self._open_model()
        counts = normal_lengths(cache, tokens, lengths)
        if self._layout.cross and not cache.cross:
            raise InvalidInputError("KX552", "the encoder prompt is missing", hint="call `encode` before `extend`")
        cache.drop_rows_that_hold_nothing()
        result = np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        if not cache.mask.shape[1] and not (cache.has_states and (counts != counts[0]).any()):
            self._extend_empty(cache, tokens, counts, result)
        else:
            for start, stop in equal_steps(counts, self._longest):
                self._extend_step(cache, tokens[:, start:stop], counts >= stop, counts == stop, result, start)
        return result

    def fill(self, cache: CacheState, contents: Sequence[Sequence[Array]]) -> None:
        assert isinstance(cache, OpenVinoCache)
        self._open_model()
        lengths = check_contents(cache, contents, len(self._layout.states))
        width = int(lengths.max())
        if width:
            cache.set_contents(contents, lengths, width)

    def set_adapter(self, adapter: Adapter | None) -> None:
        self._open_model()
        files = {tensor.file for chosen in (self._adapter, adapter) if chosen is not None for tensor in chosen.tensors}
        changed = {} if adapter is None else {file: with_adapter(self._core, self._directory / file, adapter) for file in files & {self._step_file, self._encoder_file}}
        if self._encoder_file in files:
            self._encoder = None  # the old weights go before the new ones come
            self._encoder = compile_model(self._core, self._directory / self._encoder_file, self._options, changed.get(self._encoder_file))
        if self._step_file in files:
            self._open_step(changed.get(self._step_file))
        self._adapter = adapter

    def close(self) -> None:
        self._model = self._encoder = None

    def _collect(self, cache: OpenVinoCache, start: int) -> None:
        if self._hidden_states is not None:
            self.collect_hidden_states(slice(None), start, cache.hidden_states())

    def _open_step(self, changed: ov.Model | None = None) -> None:
        """Open the decoder: its file, or what an adapter made of it."""
        self._model = None
        with contextlib.nullcontext() if self._options.low_memory else on_huge_pages():
            self._model = compile_model(self._core, self._directory / self._step_file, self._options, changed)
            _check_states(self._model, self._layout)
            self._warm_up()

    def _warm_up(self) -> None:
        """One step of one row: only then does the plugin lay out the weights for steps. A decoder that wants an encoder's output does so later."""
        if not self._layout.cross:
            self.extend(self.new_cache(1, 1), np.zeros((1, 1), np.int64))

    def _open_model(self) -> ov.CompiledModel:
        if self._model is None:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        return self._model

    def _extend_empty(self, cache: OpenVinoCache, tokens: Tokens, counts: Lengths, result: Logits) -> None:
        """The first tokens of all rows, padded on the left."""
        width = int(counts.max(initial=0))
        columns = np.arange(width) - (width - counts[:, None])  # index of each column in its row's tokens, negative on padding
        real = (columns >= 0).astype(np.int64)
        shifted = np.take_along_axis(np.asarray(tokens), np.maximum(columns, 0), axis=1) * real if width else tokens[:, :0]
        for start in range(0, width, self._longest):
            part = slice(start, min(start + self._longest, width))
            logits = cache.run(shifted[:, part], real[:, part], np.maximum(columns[:, part], 0), self.valid_lengths_of(cache))
            result[:] = logits[:, -1]
            self._collect(cache, start)
        cache.lengths += counts

    def _extend_step(
        self, cache: OpenVinoCache, tokens: Tokens, running: npt.NDArray[np.bool_], last: npt.NDArray[np.bool_], result: Logits, start: int
    ) -> None:
        """Equally many tokens for the `running` rows, columns from `start` on; the logits of rows that this is the `last` step of go into `result`."""
        wasted = cache.mask.shape[1] > _WASTEFUL * int(cache.lengths.max())
        if wasted or not cache.aligned[running].all():
            cache.align()
        width = tokens.shape[1]
        real = np.repeat(running[:, None], width, axis=1).astype(np.int64)
        positions, valid = np.minimum(cache.lengths[:, None] + np.arange(width), cache.capacity - 1), self.valid_lengths_of(cache)
        if cache.has_states and not running.all():
            with cache.without_others(running, width):
                logits = cache.run(tokens[running], real[running], positions[running], valid[running])
                cache.lengths += width
                result[last] = logits[last[running], -1]
                if self._hidden_states is not None:
                    self._hidden_states[running, start : start + width] = cache.hidden_states()
            return
        logits = cache.run(tokens * real, real, positions, valid)
        cache.lengths += width * running
        cache.aligned &= running | (cache.lengths == 0)
        result[last] = logits[last, -1]
        self._collect(cache, start)


@register_engine("openvino")
def open_openvino(directory: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open an OpenVINO artifact. Raises InvalidInputError (KX555, KX557) for files or records that do not fit this engine."""
    return OpenVinoEngine(directory, manifest, options)


def compile_model(core: ov.Core, path: Path, options: EngineOptions, changed: ov.Model | None = None, *, data: Path | None = None) -> ov.CompiledModel:
    """The model of a file, for any signature of the artifact, or what was made of it. `data`: its weights where they stand in another model's file."""
    settings: dict[str, Any] = {**_EXACT, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    settings["ENABLE_CPU_PINNING"] = False  # measured: no difference on idle cores; on busy ones a thread that may not move costs a quarter more
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    with _explained(path):
        if changed is not None or data is not None:
            return core.compile_model(changed or _read_model(core, path, data), _DEVICE, settings)
        return core.compile_model(str(path), _DEVICE, settings)


def _read_model(core: ov.Core, path: Path, data: Path | None) -> ov.Model:
    return core.read_model(str(path), "" if data is None else str(data))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """OpenVINO's errors while a file is opened, as ours."""
    try:
        yield
    except RuntimeError as error:
        hint = "the file is damaged, or was made for a newer OpenVINO (pip install --upgrade openvino)"
        raise InvalidInputError("KX557", f"openvino cannot open `{path.name}`: {_last_line(error)}", hint=hint, detail=str(error)) from error


def with_adapter(core: ov.Core, path: Path, adapter: Adapter, *, data: Path | None = None) -> ov.Model:
    """The model of a file (and of `data`, see `compile_model`) with the constants that the adapter changes replaced. Raises InvalidInputError (KX371) where one is not there."""
    with _explained(path):
        model = _read_model(core, path, data)
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for tensor, array in changed_tensors(path.parent, adapter, path.name):
        old = constants.get(tensor.name)
        if old is None or tuple(old.get_output_shape(0)) != tensor.shape:
            raise InvalidInputError("KX371", f"`{path.name}` has no constant `{tensor.name}` of {list(tensor.shape)}", hint="convert the model again")
        owned = ov.Tensor(old.get_output_element_type(0), ov.Shape(list(tensor.shape)))  # one over the array would not keep it alive
        owned.data.view(array.dtype)[...] = array
        new = op.constant(owned, shared_memory=True)
        new.set_friendly_name(tensor.name)
        for reader in old.output(0).get_target_inputs():
            reader.replace_source_output(new.output(0))
    return model


def _read_layout(manifest: Manifest, step: Signature) -> _Layout:
    """What to feed, from the manifest. Raises InvalidInputError (KX555) where records do not fit together."""
    inputs = frozenset(spec.name for spec in step.inputs)
    slots = [slot for slot in manifest.cache.slots if slot.shared_with is None]
    states = tuple(past + present for slot in slots if slot.kind == "self" for past, present in _pairs(slot))
    cross = tuple(pair for slot in slots if slot.kind == "cross" for pair in _pairs(slot))
    recurrent = frozenset(past + present for slot in state_slots(manifest) for past, present in _pairs(slot))
    missing = sorted({name for name, _ in cross} - inputs)
    if missing:
        raise InvalidInputError("KX555", f"the `{step.name}` signature has no input `{missing[0]}`, which a cache slot names")
    unknown = sorted(inputs - _TOKEN_INPUTS - {name for name, _ in cross})
    if unknown:
        raise InvalidInputError("KX555", f"this engine cannot fill the input `{unknown[0]}`", hint="pip install --upgrade kexport")
    if names.INPUT_IDS not in inputs or not any(spec.name == names.LOGITS for spec in step.outputs):
        raise InvalidInputError("KX555", f"the `{step.name}` signature lacks `{names.INPUT_IDS}` or `{names.LOGITS}`")
    return _Layout(inputs, states, recurrent, cross, step.returns_logits == "all")


def _pairs(slot: CacheSlot) -> list[tuple[str, str]]:
    if len(slot.inputs) != len(slot.outputs):
        raise InvalidInputError("KX555", f"cache slot `{slot.name}` has {len(slot.inputs)} inputs and {len(slot.outputs)} outputs")
    return list(zip(slot.inputs, slot.outputs, strict=True))


def _check_states(model: ov.CompiledModel, layout: _Layout) -> None:
    found = sorted(state.name for state in model.create_infer_request().query_state())
    named = sorted((*layout.states, *layout.recurrent))
    if found != named:
        raise InvalidInputError("KX555", f"the model has the states {found}, the manifest names {named}", hint="convert the model again")


def _vocabulary_size(manifest: Manifest, step: Signature) -> int:
    size = next((spec.shape[-1] for spec in step.outputs if spec.name == names.LOGITS and spec.shape), None)
    if isinstance(size, int):
        return size
    if manifest.generation.vocabulary_size < 1:
        raise InvalidInputError("KX555", "the manifest does not say how large the vocabulary is", hint="convert the model again")
    return manifest.generation.vocabulary_size


def _last_real_column(mask: npt.NDArray[np.bool_]) -> int:
    """The width without the columns at the end that are padding in every row; at least 1."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1]) + 1 if columns.size else 1


def _last_line(error: Exception) -> str:
    """The line of OpenVINO's report that says what is wrong; the ones before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
