"""rope -> com.microsoft RotaryEmbedding over tables of capacity rows; plain ops where the positions are not the input's.

Where attention takes the rotation into its own operator (attention_gqa.py), what is written here stays unread and is dropped.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import CONTRIB, Builder, Tensor, fixed
from kexport.targets.onnx.lowering import Argument, Case, lowers
from kexport.targets.onnx.rope_tables import tables

_HEADS = Argument(("batch", "sequence", 2, 8))
_FREQUENCIES = Argument(role="constant", array=np.array([1.0, 0.3, 0.1, 0.02], np.float32))
_PARTIAL = Argument(role="constant", array=np.array([1.0, 0.3, 0.1], np.float32))
_COMPUTED = Argument(("batch", "sequence"), "int32", values="ids", limit=20)


def _by_table(node: Node, b: Builder) -> Tensor:
    x = b.value(node.input(0))
    heads, size = (fixed(dim, "heads", node) for dim in x.shape[2:])
    cos, sin = tables(b, node)
    rotated = 2 * fixed(cos.shape[1], "frequencies", node)
    flat = b.reshape(x, (*x.shape[:2], heads * size))
    inputs = [flat, b.ids(node.input(1)), cos, sin]
    partial = rotated if rotated < size else 0
    turned = b.op(
        "RotaryEmbedding", inputs, x.dtype, flat.shape, domain=CONTRIB, num_heads=heads, rotary_embedding_dim=partial, interleaved=0
    )
    return b.reshape(turned, x.shape)


def _angles(node: Node, b: Builder) -> tuple[Tensor, Tensor]:
    """cos and sin [batch, sequence, 1, half], times the factor."""

    def make() -> tuple[Tensor, Tensor]:
        positions, frequencies = b.value(node.input(1)), b.value(node.input(2))
        shape = (*positions.shape, 1, frequencies.shape[0])
        column = b.op("Unsqueeze", [b.cast(positions, "float32"), b.integers(2, 3)], "float32", (*positions.shape, 1, 1))
        angles = b.op("Mul", [column, frequencies], "float32", shape)
        factor = b.constant(np.float32(attribute(node, "factor")))
        cos, sin = (b.op("Mul", [b.op(name, [angles], "float32", shape), factor], "float32", shape) for name in ("Cos", "Sin"))
        return cos, sin

    cos, sin = b.memo(("angles", node.input(1), node.input(2), attribute(node, "factor")), make)
    return cos, sin


def _in_parts(node: Node, b: Builder) -> Tensor:
    x, (cos, sin) = b.value(node.input(0)), _angles(node, b)
    size, half = fixed(x.shape[-1], "head size", node), fixed(cos.shape[-1], "frequencies", node)
    sizes = [half, half, size - 2 * half] if size > 2 * half else [half, half]
    parts = b.operator("Split", [x, b.integers(*sizes)], [(x.dtype, (*x.shape[:3], part)) for part in sizes], axis=3)
    first, second, rest = parts[0], parts[1], parts[2:]

    def product(left: Tensor, right: Tensor) -> Tensor:
        return b.op("Mul", [left, right], x.dtype, first.shape)

    turned = [
        b.op("Sub", [product(first, cos), product(second, sin)], x.dtype, first.shape),
        b.op("Add", [product(second, cos), product(first, sin)], x.dtype, first.shape),
    ]
    return b.op("Concat", [*turned, *rest], x.dtype, x.shape, axis=3)


@lowers(
    "rope",
    cases=[
        Case("computed positions", [_HEADS, _COMPUTED, _FREQUENCIES]),
        Case("a part of the head", [_HEADS, _COMPUTED, _PARTIAL]),
        Case("factor", [_HEADS, _COMPUTED, _FREQUENCIES], {"factor": 1.25}),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Rotate by the tables where the positions are the input's, which the capacity bounds; else compute the angles."""
    by_table = b.is_position_input(node.input(1)) and node.input(2) in b.graph.constants
    b.set(node.output, _by_table(node, b) if by_table else _in_parts(node, b))
