"""Renders one graph into the TensorFlow function that is being traced.

Sizes are numbers where the signature fixes them (a decode step has one token) and scalar tensors where it does not, so that shapes stay
constants wherever they can: a reshape with one open size is written with -1, transposes that move an axis of size 1 become reshapes.
Tensors that several layers need (masks, cos and sin, rows of the cache) are made once (`memo`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from kexport.graphs.dims import SEQUENCE, Dim, Shape, in_pieces
from kexport.graphs.ir import Graph, Slot, TensorType
from kexport.graphs.weights import Weight
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import Experts, Fusion
from kexport.targets.savedmodel.weight_tensors import WeightTensors

Tensor = Any  # tf.Tensor: TensorFlow comes without types
Size = int | Tensor
OPEN = -1


@dataclass(slots=True)
class SlotTensors:
    """One cache slot: keys and values [batch, key-value heads, length, dim], the newest state, and whether each was written."""

    slot: Slot
    now: list[Tensor]
    written: bool = False


class Builder:
    """One graph on its way into a function. `sizes`: the size of every named dim."""

    def __init__(self, graph: Graph, sizes: Mapping[str, Size], weights: WeightTensors) -> None:
        self.graph = graph
        self.sizes = dict(sizes)
        self.weights = weights
        self.slots: dict[str, SlotTensors] = {}
        self.fusions: list[Fusion] = []
        self.experts: list[Experts] = []
        self.whole: dict[str, int] = {}  # label -> bytes that a call reads of it
        self._values: dict[str, Tensor] = {}
        self._memo: dict[Any, Any] = {}

    # ---- values

    def set(self, name: str, tensor: Tensor) -> None:
        """Let graph value `name` be `tensor`."""
        self._values[name] = tensor

    def value(self, name: str) -> Tensor:
        """The tensor of graph value `name`; weights and constants are entered at their first use."""
        if name in self._values:
            return self._values[name]
        if name in self.graph.weights:
            return self.weight(self.graph.weights[name])
        if name in self.graph.constants:
            return self.memo(("constant", name), lambda: tf.constant(self.graph.constants[name]))
        raise InternalError("KX903", f"graph `{self.graph.name}`: `{name}` is read before it is produced")

    def optional(self, name: str) -> Tensor | None:
        """The tensor of `name`, None for `""`."""
        return self.value(name) if name else None

    def type_of(self, name: str) -> TensorType:
        """The graph's type of value `name`."""
        return self.graph.type_of(name)

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time it was asked for under `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    # ---- weights

    def weight(self, weight: Weight) -> Tensor:
        """A weight in its own dtype, widened where it is stored narrower; a call reads all of it."""
        return self.given(self.weights.stored_form(weight), weight.dtype)

    def given(self, stored: Weight, dtype: str) -> Tensor:
        """A weight that is already in the form it is to be stored in, as `dtype`."""
        variable = self.narrow(stored)
        if stored.dtype == dtype:
            return variable
        self.whole[stored.label] = stored.cast(dtype).nbytes
        return self.memo(("widened", stored.label), lambda: tf.cast(variable, dtype))

    def narrow(self, stored: Weight) -> Tensor:
        """The variable of a weight in the form it is to be stored in, for an operator that reads it as it is."""
        self.whole[stored.label] = stored.nbytes
        return self.weights.variable(stored)

    def part(self, weight: Weight, share: float) -> Any:
        """The variable of a weight in its stored form, of which a call reads the part `share`."""
        stored = self.weights.stored_form(weight)
        self.whole[stored.label] = round(share * stored.nbytes)
        return self.weights.variable(stored)

    def rows(self, weight: Weight, ids: Tensor) -> Tensor:
        """Rows of a table; only they are read and widened."""
        taken = tf.gather(self.weights.variable(self.weights.stored_form(weight)), ids)
        return tf.cast(taken, weight.dtype)

    # ---- sizes

    @property
    def one_token(self) -> bool:
        """Whether the signature takes one token a row."""
        return SEQUENCE in self.sizes and self.size(SEQUENCE) == 1

    def size(self, dim: Dim) -> int | None:
        """The size of `dim`, None where only a call knows it."""
        result = 1
        for part in str(dim).split("*"):
            size = int(part) if part.isdigit() else self._bound(part)
            if not isinstance(size, int):
                return None
            result *= size
        return result

    def size_tensor(self, dim: Dim) -> Tensor:
        """The size of `dim` as an int32 scalar."""
        known = self.size(dim)
        if known is not None:
            return tf.constant(known, tf.int32)
        return self.memo(("size", dim), lambda: self._product(str(dim).split("*")))

    def _product(self, parts: Sequence[str]) -> Tensor:
        result = None
        for part in parts:
            size = int(part) if part.isdigit() else self._bound(part)
            result = size if result is None else result * size
        return result

    def _bound(self, name: str) -> Size:
        cut = in_pieces(name)
        if cut is not None:
            return (self._bound(cut[0]) + cut[1] - 1) // cut[1]
        if name not in self.sizes:
            raise InternalError("KX901", f"dim `{name}` has no size in this signature")
        return self.sizes[name]

    def full_shape(self, shape: Shape) -> Any:
        """`shape` as numbers, or as a tensor where a call decides."""
        known = [self.size(dim) for dim in shape]
        if all(size is not None for size in known):
            return known
        return self.memo(
            ("shape", shape), lambda: tf.stack([self.size_tensor(dim) if n is None else n for dim, n in zip(shape, known, strict=True)])
        )

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The same numbers in another shape."""
        known = [self.size(dim) for dim in shape]
        if sum(size is None for size in known) <= 1:
            return tf.reshape(tensor, [OPEN if size is None else size for size in known])
        return tf.reshape(tensor, self.full_shape(shape))

    def transpose(self, tensor: Tensor, shape: Shape, permutation: Sequence[int]) -> Tensor:
        """Axes of `tensor`, which has the graph shape `shape`, in a new order; a reshape where only axes of size 1 move."""
        moving = [axis for axis in permutation if self.size(shape[axis]) != 1]
        if moving == sorted(moving):
            return self.reshape(tensor, tuple(shape[axis] for axis in permutation))
        return tf.transpose(tensor, list(permutation))


def number(value: float, like: Tensor) -> Tensor:
    """A scalar of `like`'s dtype."""
    return tf.constant(np.asarray(value).astype(like.dtype.as_numpy_dtype), like.dtype)
