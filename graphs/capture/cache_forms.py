"""In which form a decoder-only task passes its cache along, found by letting the task build two of different sizes.

    stacked    one tensor [batch, layers, 2, total, heads, dim]: most families; [batch, layers, 2, heads, total, dim]: Gemma 3n
    pairs      for each layer a pair of tensors [batch, total, heads, dim]: Gemma 3
    hybrid     (stacked, convolution, recurrent): beside the stacked cache two kinds of states, [batch, layers, channels, kept] and
               [batch, layers, heads, key dim, value dim], of which each layer uses some: Qwen3.5
    recurrent  [states, shifts]: [batch, layers, heads, value dim, key dim] and the last token at two places of each layer,
               [batch, layers, 2, 1, channels]: RWKV-7
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf
from kexport.graphs.capture.spy import call_arguments
from kexport.graphs.capture.trace import CacheView, Trace
from kexport.graphs.ir import Graph, Slot, State
from kexport.runtime.contract.errors import UnsupportedError

KEY_VALUE_PAIR = 2
STACKED_RANK = 6
PAIR_RANK = 4
CONVOLUTION_RANK, RECURRENT_RANK = 4, 5
HYBRID_RANKS = (STACKED_RANK, CONVOLUTION_RANK, RECURRENT_RANK)
RECURRENT_RANKS = (RECURRENT_RANK, RECURRENT_RANK)
SHIFTS = ("time_shift", "channel_shift")
KIND: Literal["self"] = "self"


class CacheForm(ABC):
    """`specs`: of the tensors in order, open dims None."""

    def __init__(self, specs: Sequence[tf.TensorSpec]) -> None:
        self.specs = list(specs)

    @abstractmethod
    def nested(self, tensors: Sequence[Any]) -> Any:
        """The tensors as the task takes them."""

    @abstractmethod
    def register(self, trace: Trace, tensors: Sequence[tf.Tensor]) -> None:
        """Tell the trace which slots these placeholders are."""

    @abstractmethod
    def slots(self) -> dict[str, Slot]:
        """One slot a layer."""

    def states(self) -> dict[str, State]:
        """The states that a layer may use."""
        return {}

    def call(self, task: Any, token_ids: tf.Tensor, cache: Any, start_index: tf.Tensor, positions: tf.Tensor | None = None) -> Any:
        """Logits, hidden states and the next cache: the task's cached forward. `positions` of the tokens, None: from `start_index` on."""
        return task.call_with_cache(token_ids, cache, start_index)

    def declare(self, graph: Graph, trace: Trace) -> None:
        """Give the graph its slots, and the states that the traced layers use."""
        graph.slots.update(self.slots())
        for name, state in self.states().items():
            if name in trace.next_states:
                graph.add_state(name, state)

    def empty(self, batch: int, length: int) -> Any:
        """Zeros for `batch` rows of `length`, as the task takes them."""
        return self.nested([empty_tensor(spec, batch, length) for spec in self.specs])


class Stacked(CacheForm):
    """See the module."""

    def nested(self, tensors: Sequence[Any]) -> Any:
        return tensors[0]

    def register(self, trace: Trace, tensors: Sequence[tf.Tensor]) -> None:
        trace.caches[tensors[0].name] = KIND

    def slots(self) -> dict[str, Slot]:
        return stacked_slots(KIND, self.specs[0])


class Pairs(CacheForm):
    """See the module. `specs`: keys and values of the first layer, of the second, ..."""

    def nested(self, tensors: Sequence[Any]) -> Any:
        return tuple(zip(tensors[::KEY_VALUE_PAIR], tensors[1::KEY_VALUE_PAIR], strict=True))

    def register(self, trace: Trace, tensors: Sequence[tf.Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            layer, part = divmod(number, KEY_VALUE_PAIR)
            trace.caches[tensor.name] = KIND
            trace.cache_parts[tensor.name] = CacheView(f"{KIND}.{layer}", part, None)

    def slots(self) -> dict[str, Slot]:
        pairs = zip(self.specs[::KEY_VALUE_PAIR], self.specs[1::KEY_VALUE_PAIR], strict=True)
        return {
            f"{KIND}.{layer}": Slot(KIND, int(keys.shape[2]), int(keys.shape[3]), int(values.shape[3])) for layer, (keys, values) in enumerate(pairs)
        }


class Hybrid(CacheForm):
    """See the module. `specs`: the stacked cache, then each layer's convolution state [batch, kept, channels], then its recurrent state.

    The task is given layers' states as placeholders of their own, tokens before channels; what it uses of them an adapter has to tell.
    """

    def __init__(self, built: Sequence[tf.TensorSpec]) -> None:
        self._built = list(built)
        kept = [State("convolution", (int(built[1].shape[3]), int(built[1].shape[2])))] * int(built[1].shape[1])
        recurrent = [State("recurrent", tuple(int(size) for size in built[2].shape[2:]))] * int(built[2].shape[1])
        self._states = {f"{state.kind}.{layer}": state for states in (kept, recurrent) for layer, state in enumerate(states)}
        placeholders = [tf.TensorSpec([None, *state.shape], state.dtype, name=name.replace(".", "_")) for name, state in self._states.items()]
        super().__init__([built[0], *placeholders])

    def nested(self, tensors: Sequence[Any]) -> Any:
        layers = (len(tensors) - 1) // 2
        return tensors[0], _PerLayer(tensors[1 : 1 + layers]), _PerLayer(tensors[1 + layers :])

    def register(self, trace: Trace, tensors: Sequence[tf.Tensor]) -> None:
        trace.caches[tensors[0].name] = KIND
        trace.states.update({tensor.name: name for tensor, name in zip(tensors[1:], self._states, strict=True)})

    def slots(self) -> dict[str, Slot]:
        return stacked_slots(KIND, self.specs[0])

    def states(self) -> dict[str, State]:
        return self._states

    def empty(self, batch: int, length: int) -> Any:
        return tuple(empty_tensor(spec, batch, length) for spec in self._built)


class Recurrent(CacheForm):
    """See the module. `built`: the two tensors of stock. The task is given each layer's states as placeholders of their own, the recurrent one
    with keys before values; what it uses of them an adapter has to tell.
    """

    def __init__(self, built: Sequence[tf.TensorSpec]) -> None:
        self._built = list(built)
        _, layers, heads, value_dim, key_dim = built[0].shape
        shift = State("convolution", tuple(int(size) for size in built[1].shape[3:]))
        matrix = State("recurrent", (int(heads), int(key_dim), int(value_dim)))
        self._states: dict[str, State] = {}
        for layer in range(int(layers)):
            self._states |= {f"recurrent.{layer}": matrix, **{f"{name}.{layer}": shift for name in SHIFTS}}
        super().__init__([tf.TensorSpec([None, *state.shape], state.dtype, name=name.replace(".", "_")) for name, state in self._states.items()])

    def nested(self, tensors: Sequence[Any]) -> Any:
        each = 1 + len(SHIFTS)
        layers = [tensors[first : first + each] for first in range(0, len(tensors), each)]
        return _PerLayer([layer[0] for layer in layers]), _PerLayer([_PerLayer(layer[1:]) for layer in layers])

    def register(self, trace: Trace, tensors: Sequence[tf.Tensor]) -> None:
        trace.states.update({tensor.name: name for tensor, name in zip(tensors, self._states, strict=True)})

    def slots(self) -> dict[str, Slot]:
        return {}

    def states(self) -> dict[str, State]:
        return self._states

    def call(self, task: Any, token_ids: tf.Tensor, cache: Any, start_index: tf.Tensor, positions: tf.Tensor | None = None) -> Any:
        """The id 0 is padding to the task, but for a row's first token: a prompt of one token is prefilled as the id 0, which counts."""
        is_real = tf.not_equal(token_ids, 0) | tf.equal(tf.range(tf.shape(token_ids)[1])[None] if positions is None else positions, 0)
        return task.call_with_cache(token_ids, cache, padding_mask=is_real)

    def empty(self, batch: int, length: int) -> Any:
        return [empty_tensor(spec, batch, length) for spec in self._built]


class _PerLayer:
    """Tensors of the layers, read as if they were stacked on the second axis: `x[:, layer, ...]`."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, index: Any) -> Any:
        return self._tensors[index[1]]


def cache_form(task: Any) -> CacheForm:
    """The form of `task`'s cache; nothing of the task is run but the making of empty caches.

    Raises:
        UnsupportedError: KX202, it is of no known form.
    """
    small, large = (_built(task, batch, length) for batch, length in ((1, 6), (2, 9)))
    tensors = [tf.nest.flatten(cache) for cache in (small, large)]
    if all(tf.is_tensor(tensor) for built in tensors for tensor in built):
        specs = [open_spec(first, second, f"cache_{number}") for number, (first, second) in enumerate(zip(*tensors, strict=True))]
        if tf.is_tensor(small) and len(small.shape) == STACKED_RANK and small.shape[2] == KEY_VALUE_PAIR:
            return Stacked(specs)
        if _is_pairs(small):
            return Pairs(specs)
        if isinstance(small, (tuple, list)) and tuple(len(spec.shape) for spec in specs) == HYBRID_RANKS:
            return Hybrid(specs)
        if isinstance(small, (tuple, list)) and tuple(len(spec.shape) for spec in specs) == RECURRENT_RANKS:
            return Recurrent(specs)
    raise UnsupportedError("KX202", f"{type(task).__name__} keeps a cache of a form that kexport does not capture yet", hint="see `kexport list`")


def stacked_slots(kind: Any, spec: tf.TensorSpec) -> dict[str, Slot]:
    """One slot a layer of a stacked cache, whichever of its open axes is the length."""
    _, layers, _, *rest = spec.shape
    heads, dim = (size for size in rest if size is not None)
    return {f"{kind}.{layer}": Slot(kind, int(heads), int(dim), int(dim)) for layer in range(layers)}


def _built(task: Any, batch: int, length: int) -> Any:
    ids, mask = tf.ones([batch, length], tf.int32), tf.ones([batch, length], tf.bool)
    return call_arguments(task, "_build_cache", "call_with_cache", {"token_ids": ids, "padding_mask": mask}).get("cache")


def _is_pairs(cache: Any) -> bool:
    return (
        isinstance(cache, (tuple, list))
        and bool(cache)
        and all(isinstance(pair, (tuple, list)) and len(pair) == KEY_VALUE_PAIR for pair in cache)
        and all(len(tensor.shape) == PAIR_RANK for pair in cache for tensor in pair)
    )


def open_spec(first: Any, second: Any, name: str) -> tf.TensorSpec:
    """The sizes that both have; None for those that follow the batch or the length."""
    return tf.TensorSpec([a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)], first.dtype, name=name)


def empty_tensor(spec: tf.TensorSpec, batch: int, length: int) -> tf.Tensor:
    """Zeros, the open sizes filled in."""
    sizes = iter((batch, length))
    return tf.zeros([next(sizes) if size is None else size for size in spec.shape], spec.dtype)
