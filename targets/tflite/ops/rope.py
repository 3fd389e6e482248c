"""rope -> five operators: x * cos + swapped halves * signed sin, with cos and sin from tables of every position.

    [a, b] = SPLIT(x);  y = x * [cos, cos] + [b, a] * [-sin, sin]

Tables hold what Keras computes, float32 position times float32 frequency, so that no approximation of sin in a kernel can differ;
they cost 8 bytes a number of head size and position, once for all layers and signatures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.rope import cos_sin
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers
from kexport.targets.tflite.model_file import Computed
from numpy.typing import NDArray

_POSITIONS = Argument((1, 3), "int32", values="ids", limit=8)
_HALF = Argument((4,), role="constant", values="positive")
HALVES = 2
FORM = ("SPLIT", "CONCATENATION", "MUL", "MUL", "ADD")


@lowers(
    "rope",
    cases=[
        Case("whole head", [Argument((1, 3, 2, 8)), _POSITIONS, _HALF]),
        Case("a part of the head", [Argument((1, 3, 2, 12)), _POSITIONS, _HALF]),
        Case("factor", [Argument((1, 3, 2, 8)), _POSITIONS, _HALF], {"factor": 1.5}),
        Case("computed frequencies", [Argument((1, 3, 2, 8)), _POSITIONS, Argument((4,), values="positive")]),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Rotate the first `2 * half` numbers of each head."""
    x, half = b.value(node.input(0)), b.shape_of(node.input(2))[0]
    width = HALVES * half
    turning = b.part(x, (0,) * len(x.shape), (*x.shape[:-1], width))
    last = len(x.shape) - 1
    kinds = [(x.dtype, (*x.shape[:-1], half))] * HALVES
    first, second = b.operator("SPLIT", [b.constant(np.int32(last)), turning], kinds, num_splits=HALVES)
    cos, sin = b.memo(("rope", node.input(1), node.input(2), float(attribute(node, "factor"))), lambda: _cos_and_signed_sin(node, b, half))
    result = b.binary("ADD", b.binary("MUL", turning, cos), b.binary("MUL", b.joined([second, first], last), sin))
    if width < x.shape[-1]:
        rest = b.part(x, (0,) * last + (width,), (*x.shape[:-1], x.shape[-1] - width))
        result = b.joined([result, rest], last)
    b.set(node.output, result)


def _cos_and_signed_sin(node: Node, b: Builder, half: int) -> tuple[Tensor, Tensor]:
    """Both [1, sequence, 1, 2 * half]."""
    positions = b.value(node.input(1))
    shape = (*positions.shape, 1, HALVES * half)
    if node.input(2) in b.graph.constants:
        flat = b.reshape(positions, (positions.shape[0] * positions.shape[1],))
        tables = _tables(node, b, half)
        rows = (b.op("GATHER", [table, flat], "float32", (*flat.shape, HALVES * half), axis=0) for table in tables)
        cos, sin = (b.reshape(row, shape) for row in rows)
        return cos, sin
    angles = b.binary("MUL", b.reshape(b.cast(positions, "float32"), (*positions.shape, 1, 1)), b.value(node.input(2)))
    doubled, factor = b.joined([angles, angles], len(angles.shape) - 1), float(attribute(node, "factor"))
    signs = np.repeat(np.array([-factor, factor], np.float32), half)
    cos = b.binary("MUL", b.unary("COS", doubled), b.number(factor))
    return cos, b.binary("MUL", b.unary("SIN", doubled), b.constant(signs))


def _tables(node: Node, b: Builder, half: int) -> tuple[Tensor, Tensor]:
    """The cos and the signed sin table [cache length, 2 * half] of these frequencies."""
    frequencies, factor = b.graph.constants[node.input(2)].astype(np.float32), float(attribute(node, "factor"))
    shape = (b.cache_length, HALVES * half)

    def numbers(part: int) -> NDArray[Any]:
        values = cos_sin(np.arange(b.cache_length), frequencies)[part] * np.float32(factor)
        return np.concatenate([-values if part else values, values], axis=-1)

    key = (frequencies.tobytes(), factor, shape)
    cos = b.stored(Computed(("cos_table", *key), "float32", shape, lambda: numbers(0)))
    return cos, b.stored(Computed(("sin_table", *key), "float32", shape, lambda: numbers(1)))
