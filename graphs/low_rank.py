"""Low-rank updates of parameters, as LoRA trains them: a parameter is read as itself plus `scale * (a @ b)`.

The sum is made when the parameter is read, one at a time; nothing else of the graph or of a target knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from kexport.graphs.weights import (
    Array,
    Casted,
    Concatenated,
    Padded,
    Parameter,
    Reshaped,
    Shifted,
    Transformed,
    Transposed,
    Weight,
    WeightSource,
)
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import AdapterStep

Reader = Callable[[], Array]
Steps = tuple[AdapterStep, ...]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to a parameter [..., out]: `a` gives float32 [..., rank], `b` float32 [rank, out]; `scale` is alpha / rank."""

    a: Reader
    b: Reader
    scale: float

    def delta(self) -> Array:
        """float32 [..., out], in the order of operations that Keras has."""
        return np.asarray(np.float32(self.scale) * np.matmul(self.a().astype(np.float32), self.b().astype(np.float32)))


class UpdatedWeights:
    """A weight source whose parameters come with their updates (by parameter name)."""

    def __init__(self, source: WeightSource, updates: Mapping[str, LowRank]) -> None:
        self._source, self._updates = source, updates

    def read(self, name: str) -> Array:
        """See WeightSource; the parameter's own dtype and shape."""
        array = self._source.read(name)
        update = self._updates.get(name)
        return array if update is None else np.asarray(array + update.delta()).astype(array.dtype, copy=False)


def placements(weight: Weight) -> Iterator[tuple[Parameter, Steps]]:
    """For each parameter that `weight` reads: the way of a change of that parameter to the change of the weight. Changes of several add up.

    Casts and added constants are left out: a change is brought to its place, and the sum is rounded as the weight is stored.

    Raises:
        InternalError: a transform that is not linear in its parameters.
    """
    if isinstance(weight, Parameter):
        yield weight, ()
    elif isinstance(weight, Concatenated):
        start = 0
        for part in weight.parts:
            stop = start + part.shape[weight.axis]
            around = [(start, weight.shape[axis] - stop) if axis == weight.axis else (0, 0) for axis in range(len(weight.shape))]
            for parameter, steps in placements(part):
                yield parameter, (*steps, _pad(around))
            start = stop
    elif isinstance(weight, Transformed):
        step = _step(weight)
        for parameter, steps in placements(weight.of):
            yield parameter, (*steps, *step)
    else:
        raise InternalError("KX902", f"weight {weight.label}: a change of its parameters has no known place in it")


def _step(weight: Transformed) -> Steps:
    if isinstance(weight, Transposed):
        return (AdapterStep(kind="transpose", numbers=weight.permutation),)
    if isinstance(weight, Reshaped):
        return (AdapterStep(kind="reshape", numbers=weight.shape),)
    if isinstance(weight, Padded):
        return (_pad(weight.before_after),)
    if isinstance(weight, Casted | Shifted):
        return ()
    raise InternalError("KX902", f"weight {weight.label}: a change of its parameters has no known place in it")


def _pad(before_after: Iterable[tuple[int, int]]) -> AdapterStep:
    return AdapterStep(kind="pad", numbers=tuple(number for pair in before_after for number in pair))
