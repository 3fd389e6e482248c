"""The SavedModel engine: TensorFlow's own loader and functions, no Keras. Caches go in and out of every step as tensors.

What the artifact's functions do, and how this engine lives with it:

- a step writes its new keys and values into the cache tensors it was given: the tensors are this cache's own and go on as its outputs;
- every token of every row says where it stands (`input_pos`), so rows of any lengths go together. A cache has one position more than it
  can serve, the last: padding is written there, where no token can see it;
- attention reads a cache as long as it was made, so it is made as long as its rows need and grows in steps;
- a state of a recurrent layer takes every token of a call for real: rows go together over columns in which a row has tokens in all or in
  none, and those that have none get their states back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract import names
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
    equal_steps,
    normal_lengths,
    register_engine,
    slot_specs,
    state_slots,
)
from kexport.runtime.native_output import captured_stderr
from kexport.runtime.plain_tensorflow import tf

Array = npt.NDArray[Any]
Tensor = Any

_DEVICE = "CPU:0"
_PREFILL_CHUNK = 512  # tokens of one call: longer ones gain no speed and the masks of a call grow with the square
_GROWTH = 256  # positions that a cache is made longer by, at least
_LENGTH_AXIS = 2
_LOADED: WeakValueDictionary[tuple[str, int, int], Any] = WeakValueDictionary()  # by place and version, as long as somebody uses them


@dataclass(frozen=True)
class _Snapshot:
    caches: dict[str, Array]
    states: dict[str, Tensor]
    cross: dict[str, Tensor]
    lengths: Lengths


class SavedModelCache(CacheState):
    """Keys and values of all rows, one tensor [batch, key-value heads, length + 1, head dim] each; none before the first call. And the states,
    which calls replace and never write into."""

    def __init__(self, specs: tuple[TensorSpec, ...], states: tuple[TensorSpec, ...], batch_size: int, capacity: int) -> None:
        self._specs = specs
        self.has_states = bool(states)
        self.states: dict[str, Tensor] = {}
        with tf.device(_DEVICE):
            for spec in states:
                self.states[spec.name] = tf.zeros([batch_size, *spec.shape[1:]], spec.dtype)
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.caches: dict[str, Tensor] = {}
        self.cross: dict[str, Tensor] = {}
        self.room = 0

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        order = np.asarray(rows, np.int64)
        if np.array_equal(order, np.arange(self.batch_size)):
            return
        with tf.device(_DEVICE):
            self.caches = {name: tf.gather(tensor, order) for name, tensor in self.caches.items()}
            self.states = {name: tf.gather(tensor, order) for name, tensor in self.states.items()}
            self.cross = {name: tf.gather(tensor, order) for name, tensor in self.cross.items()}
        self.lengths = self.lengths[order].copy()

    def snapshot(self) -> object:
        return _Snapshot({name: np.array(tensor) for name, tensor in self.caches.items()}, dict(self.states), self.cross, self.lengths.copy())

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        with tf.device(_DEVICE):
            self.caches = {name: _own(array) for name, array in snapshot.caches.items()}
        self.states, self.cross, self.lengths = dict(snapshot.states), snapshot.cross, snapshot.lengths.copy()
        self.room = next((array.shape[_LENGTH_AXIS] - 1 for array in snapshot.caches.values()), 0)

    def make_room(self, positions: int) -> None:
        """Let the tensors hold `positions` tokens a row."""
        if positions <= self.room and (self.caches or not self._specs):
            return
        wanted = max(positions, self.room + _GROWTH, self.room + self.room // 4)
        room = min(self.capacity, -(-wanted // _GROWTH) * _GROWTH)
        with tf.device(_DEVICE):
            for spec in self._specs:
                _, heads, _, dim = spec.shape
                old = self.caches.get(spec.name)
                if old is None:
                    self.caches[spec.name] = _zeros([self.batch_size, heads, room + 1, dim], spec.dtype)
                else:
                    more = tf.zeros([self.batch_size, heads, room - self.room, dim], spec.dtype)
                    self.caches[spec.name] = tf.concat([old[:, :, : self.room], more, old[:, :, self.room :]], _LENGTH_AXIS)
        self.room = room


class SavedModelEngine(Engine):
    """One artifact loaded with TensorFlow."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        decode = manifest.signature(names.DECODE)
        prefill = manifest.signature(names.PREFILL)
        if decode is None or prefill is None:
            raise InvalidInputError("KX555", f"the artifact has no `{names.PREFILL}` and `{names.DECODE}`", hint="convert the model again")
        self._capacity = manifest.cache.capacity
        slots = [slot for slot in manifest.cache.slots if slot.shared_with is None]
        self._own, self._cross = (slot_specs([slot for slot in slots if slot.kind == kind], decode) for kind in ("self", "cross"))
        self._states = slot_specs(state_slots(manifest), decode)
        self._longest = min(prefill.max_sequence or _PREFILL_CHUNK, _PREFILL_CHUNK)
        self.vocabulary_size = _vocabulary_size(decode)
        self.describe(decode)
        set_threads(options.threads)
        self._model, self._functions = load_functions(directory, manifest)
        self._inputs = {signature.name: {spec.name for spec in signature.inputs} for signature in manifest.signatures}
        self._is_open = True

    def new_cache(self, batch_size: int, capacity: int) -> SavedModelCache:
        if batch_size < 1 or capacity < 1 or (self._capacity and capacity > self._capacity):
            hint = f"this artifact serves up to {self._capacity} tokens; convert again with a larger --max-length"
            raise InvalidInputError("KX553", f"cannot make a cache of {batch_size} rows and {capacity} tokens", hint=hint)
        return SavedModelCache(self._own, self._states, batch_size, capacity)

    def encode(self, tokens: Tokens, padding_mask: npt.NDArray[np.bool_], cache: CacheState) -> None:
        if names.ENCODE not in self._functions:
            super().encode(tokens, padding_mask, cache)  # raises
            return
        assert isinstance(cache, SavedModelCache)
        real = np.flatnonzero(padding_mask.any(axis=0))
        width = int(real[-1]) + 1 if real.size else 1
        with tf.device(_DEVICE):
            mask = tf.constant(padding_mask[:, :width], tf.int32)
            outputs = self._call(names.ENCODE, {names.TOKENS: tf.constant(tokens[:, :width], tf.int32), names.ENCODER_MASK: mask})
        cache.cross = {spec.name: outputs[spec.name] for spec in self._cross} | {names.ENCODER_MASK: mask}

    def extend(self, cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None = None) -> Logits:
        assert isinstance(cache, SavedModelCache)
        counts = normal_lengths(cache, tokens, lengths)
        if self._cross and not cache.cross:
            raise InvalidInputError("KX552", "the encoder prompt is missing", hint="call `encode` before `extend`")
        result = np.zeros((cache.batch_size, self.vocabulary_size), np.float32)
        cache.make_room(int((cache.lengths + counts).max(initial=1)))
        steps = equal_steps(counts, self._longest) if cache.has_states else _chunks(int(counts.max(initial=0)))
        for start, stop in steps:
            logits = self._step(cache, tokens[:, start:stop], np.clip(counts - start, 0, stop - start), start)
            ends = (counts > start) & (counts <= stop)
            result[ends] = logits[ends]
        return result

    def fill(self, cache: CacheState, contents: Sequence[Sequence[Array]]) -> None:
        assert isinstance(cache, SavedModelCache)
        lengths = check_contents(cache, contents, len(self._own))
        cache.make_room(int(lengths.max(initial=1)))
        for index, spec in enumerate(self._own):
            array = np.array(cache.caches[spec.name])
            for row, parts in enumerate(contents):
                if parts:
                    array[row, :, : lengths[row]] = parts[index].transpose(1, 0, 2)
            with tf.device(_DEVICE):
                cache.caches[spec.name] = _own(array)
        cache.lengths[:] = lengths

    def _step(self, cache: SavedModelCache, tokens: Tokens, counts: Lengths, start: int) -> Array:
        """Append `tokens[b, :counts[b]]` to row b; they begin at column `start` of this `extend`. Returns logits [batch, vocabulary]; those of rows without tokens mean nothing."""
        width = tokens.shape[1]
        columns = np.arange(width)
        real = columns < counts[:, None]
        positions = np.where(real, cache.lengths[:, None] + columns, cache.room)
        name = names.DECODE if width == 1 else names.PREFILL
        with tf.device(_DEVICE):
            feeds = {
                names.TOKENS: tf.constant(np.where(real, tokens, 0), tf.int32),
                names.INPUT_POS: tf.constant(positions, tf.int32),
                names.VALID_LENGTHS: tf.constant(self.valid_lengths_of(cache)),
                names.EXTENT: tf.constant(cache.extents(positions)),
                **cache.caches,
                **cache.states,
                **cache.cross,
            }
            if name == names.PREFILL:
                feeds[names.LENGTHS] = tf.constant(np.maximum(counts, 1), tf.int32)
            outputs = self._call(name, feeds)
        logits: Array = outputs.pop(names.LOGITS).numpy()
        cache.caches = {spec.name: outputs[spec.name] for spec in self._own}
        cache.states = self._states_after(cache, outputs, counts > 0)
        cache.lengths += counts
        if self._hidden_states is not None:
            self.collect_hidden_states(slice(None), start, outputs[names.HIDDEN_STATES].numpy())
        return logits[:, 0]

    def _states_after(self, cache: SavedModelCache, outputs: dict[str, Tensor], running: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
        """The states that a call gave; of rows that had no tokens in it, those they had."""
        given = {spec.name: outputs[spec.name] for spec in self._states}
        if running.all():
            return given
        with tf.device(_DEVICE):
            chosen = {name: running.reshape(-1, *[1] * (len(tensor.shape) - 1)) for name, tensor in given.items()}
            return {name: tf.where(chosen[name], tensor, cache.states[name]) for name, tensor in given.items()}

    def _call(self, name: str, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self._is_open:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        try:
            outputs: dict[str, Tensor] = self._functions[name](**{key: tensor for key, tensor in feeds.items() if key in self._inputs[name]})
        except tf.errors.OpError as error:
            raise InternalError("KX556", f"TensorFlow failed in `{name}`: {_first_line(error)}", detail=str(error)) from error
        return outputs

    def close(self) -> None:
        self._model, self._functions, self._is_open = None, {}, False


@register_engine("savedmodel")
def open_savedmodel(directory: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """Open a SavedModel artifact. Raises InvalidInputError (KX555, KX557) for files or records that do not fit this engine."""
    return SavedModelEngine(directory, manifest, options)


def _chunks(width: int) -> Iterator[tuple[int, int]]:
    for start in range(0, width, _PREFILL_CHUNK):
        yield start, min(start + _PREFILL_CHUNK, width)


def _zeros(shape: list[Any], dtype: str) -> Tensor:
    """A tensor of zeros in memory of its own: TensorFlow may share equal constants, and a step writes into what it is given."""
    return tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=True)


def _own(array: Array) -> Tensor:
    """The array as a tensor in memory of its own."""
    return tf.raw_ops.DeepCopy(x=tf.constant(array))


def load_functions(directory: Path, manifest: Manifest) -> tuple[Any, dict[str, Any]]:
    """The loaded model, which must be kept, and its functions by signature name. A model that is loaded already is shared.

    Raises InvalidInputError: KX557 where TensorFlow cannot load it, KX555 where it lacks a signature of the manifest.
    """
    try:
        with captured_stderr() as words, tf.device(_DEVICE):
            file = (directory / "saved_model.pb").stat()
            key = (str(directory.resolve()), file.st_ino, file.st_mtime_ns)
            model = _LOADED.get(key)
            model = tf.saved_model.load(str(directory)) if model is None else model
            _LOADED[key] = model
    except Exception as error:  # TensorFlow's loader raises what comes: OSError, IndexError, errors of its own
        hint = "the files are damaged, or were made for a newer TensorFlow (pip install --upgrade tensorflow)"
        message = f"TensorFlow cannot load `{directory.name}`: {_first_line(error)}"
        raise InvalidInputError("KX557", message, hint=hint, detail=f"{error}\n{words.text()}") from error
    wanted = [signature.name for signature in manifest.signatures]
    missing = [name for name in wanted if name not in model.signatures]
    if missing:
        raise InvalidInputError("KX555", f"the SavedModel has no signature `{missing[0]}`", hint="convert the model again")
    return model, {name: model.signatures[name] for name in wanted}


def set_threads(threads: int | None) -> None:
    """TensorFlow takes the number once in a process, before its first operation."""
    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        warnings.warn(f"TensorFlow is running already: it keeps its number of threads, not {threads}", stacklevel=3)


def _vocabulary_size(step: Signature) -> int:
    size = next((spec.shape[-1] for spec in step.outputs if spec.name == names.LOGITS and spec.shape), None)
    if not isinstance(size, int):
        raise InvalidInputError("KX555", f"the `{step.name}` signature has no `{names.LOGITS}` of a fixed size")
    return size


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
