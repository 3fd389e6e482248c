"""One trace of stock Keras code: what is marked in it, and where its caches come from.

A *marker* is one nested `tf.function` whose body is the stock code. The traced function therefore still runs and equals stock Keras;
the importer reads the side table kept here instead of the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, TOTAL, Shape
from kexport.graphs.ir import Attribute
from numpy.typing import NDArray

MarkerInput: TypeAlias = "tf.Tensor | keras.Variable | NDArray[Any] | None"


@dataclass(slots=True)
class Marker:
    """What a nested function stands for: an op of the grammar, its inputs (tensors of the trace, variables, constants), its attributes."""

    op: str
    inputs: list[MarkerInput]
    attrs: dict[str, Attribute]
    layer: str


@dataclass(frozen=True, slots=True)
class CacheView:
    """A tensor that shows one part (0 keys, 1 values) of a cache slot; `update` is what was just written to it, None where only read."""

    slot: str
    part: int
    update: tf.Tensor | None


@dataclass(slots=True)
class Trace:
    """The state of one trace.

    `caches`: name of a cache placeholder -> stem of its slots (`self` -> self.0, self.1, ...).
    `cache_parts`: the same of placeholders that are one part of one slot each.
    `causal_rows`: an uncached forward in which no token sees a later one, so that a window needs telling on the earlier side only.
    `start_index`, `positions`: the placeholders that stand for where the call starts, per call and per token.
    `extent`: the placeholder that says for each token where KerasHub's call that computes it ends; None where there is but one call.
    `is_fixed`: whether a family's adapter traces the corrected form of what its stock code does wrong, in place of that.
    `valid_lengths`: the placeholder that says for each row from which position on its tokens are padding; None where that is not known.
    `states`: name of a state's placeholder -> the state's name; `next_states`: the state's name -> what it is after the call.
    """

    caches: dict[str, str] = field(default_factory=dict)
    cache_parts: dict[str, CacheView] = field(default_factory=dict)
    markers: dict[str, Marker] = field(default_factory=dict)
    start_index: tf.Tensor | None = None
    positions: tf.Tensor | None = None
    extent: tf.Tensor | None = None
    is_fixed: bool = False
    valid_lengths: tf.Tensor | None = None
    states: dict[str, str] = field(default_factory=dict)
    next_states: dict[str, tf.Tensor] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    causal_rows: bool = False
    _depth: int = 0

    @property
    def inside_marker(self) -> bool:
        """True while a marker's body is traced: stock code, no interception."""
        return self._depth > 0

    def mark(
        self,
        op: str,
        body: Callable[..., Any],
        tensors: Sequence[tf.Tensor],
        *,
        inputs: list[MarkerInput] | None = None,
        layer: str = "",
        **attrs: Attribute,
    ) -> Any:
        """Run `body(*tensors)` as one nested function that stands for `op`; it gives a tensor, or a tuple where the op has several outputs.
        `inputs` defaults to the tensors themselves."""
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]

        def traced(*arguments: tf.Tensor) -> Any:
            self._depth += 1
            try:
                return body(*arguments)
            finally:
                self._depth -= 1

        traced.__name__ = f"kexport_{op}_{len(self.markers)}"
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        function = tf.function(traced, autograph=False).get_concrete_function(*specs)
        name = function.name.decode() if isinstance(function.name, bytes) else function.name
        self.markers[name] = Marker(op, list(tensors) if inputs is None else inputs, attrs, layer)
        return function(*tensors)

    def cache_shape(self, placeholder: tf.Tensor) -> Shape:
        """The placeholder's shape with named dims: the first open one is the batch, the second the length."""
        length = TOTAL if self.caches[placeholder.name] == "self" else ENCODER_SEQUENCE
        names = iter((BATCH, length))
        return tuple(next(names) if dim is None else int(dim) for dim in placeholder.shape)

    def keep(self, before: tf.Tensor, after: tf.Tensor) -> None:
        """The state whose placeholder is `before` is `after` once the call is over."""
        self.next_states[self.states[before.name]] = after

    def marker_of(self, op: tf.Operation) -> Marker | None:
        """The marker a call op stands for, if it is one."""
        if op.type not in ("PartitionedCall", "StatefulPartitionedCall"):
            return None
        return self.markers.get(op.get_attr("f").name)

    def token_positions(self, start_index: Any, length: tf.Tensor) -> tf.Tensor:
        """int32 [batch, sequence] or [1, sequence]: the positions of a call that starts at `start_index`."""
        if start_index is self.start_index and self.positions is not None:
            return self.positions
        return (tf.range(length) + tf.cast(start_index, tf.int32))[None]


def is_symbolic(value: Any) -> bool:
    """Whether `value` is a tensor of the graph being traced (not an eager one)."""
    return tf.is_tensor(value) and not hasattr(value, "numpy")


def eager_numpy(value: Any) -> NDArray[Any]:
    """The numbers of an eager value or variable, from inside a trace."""
    with tf.init_scope():
        return np.asarray(value)
