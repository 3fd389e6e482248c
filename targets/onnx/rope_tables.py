"""cos and sin tables for rotary embedding: one pair for all layers that rotate by the same frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.rope import cos_sin
from kexport.targets.onnx.builder import Builder, Computed, Tensor
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tables:
    """cos and sin [capacity, half], times the rope's factor, float32, as Keras computes them: float32 position times float32 frequency."""

    frequencies: tuple[float, ...]
    factor: float
    capacity: int
    part: int

    def __call__(self) -> NDArray[Any]:
        values = cos_sin(np.arange(self.capacity), np.array(self.frequencies, np.float32))[self.part]
        return values * np.float32(self.factor)


def tables(b: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """The cos and sin tables of a rope node with constant frequencies, one pair for all layers that share them."""
    frequencies = tuple(float(number) for number in b.graph.constants[node.input(2)])
    factor, capacity = float(attribute(node, "factor")), b.options.capacity

    def make() -> tuple[Tensor, ...]:
        shape = (capacity, len(frequencies))
        names = ("cos_table", "sin_table")
        return tuple(
            b.computed(name, Computed("float32", shape, Tables(frequencies, factor, capacity, part))) for part, name in enumerate(names)
        )

    cos, sin = b.memo(("rope", frequencies, factor), make)
    return cos, sin
