"""Low-rank updates of parameters, as LoRA trains them: a parameter is read as itself plus `scale * (a @ b)`.

The sum is made when the parameter is read, one at a time; nothing else of the graph or of a target knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from kexport.graphs.weights import Array, WeightSource

Reader = Callable[[], Array]


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
