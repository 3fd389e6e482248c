"""rope in the form that the plugin turns into its RoPE kernel: heads first, x * cos + rotate_half(x) * sin, cos and sin shared by all layers.

    angles = transpose(broadcast(inverse_frequencies [batch, half, 1]) @ positions [batch, 1, sequence])      float32
    cos, sin = cos(concat(angles, angles)), sin(...)                                                          [batch, 1, sequence, 2 half]
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder, Output, fixed, output_of
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op

HEAD_AXIS = 3


def _cos_sin(node: Node, b: Builder) -> tuple[Output, Output]:
    key = ("cos and sin", node.input(1), node.input(2), attribute(node, "factor"))
    return b.memo(key, lambda: _make_cos_sin(node, b))


def _make_cos_sin(node: Node, b: Builder) -> tuple[Output, Output]:
    half = fixed(b.type_of(node.input(2)).shape[0], "frequencies", node)
    if node.input(2) in b.graph.constants:
        column = b.constant(np.asarray(b.graph.constants[node.input(2)], np.float32).reshape(1, half, 1))
    else:
        column = b.reshape(b.convert(b.value(node.input(2)), "float32"), (half,), (1, half, 1))
    rows = b.type_of(node.input(1)).shape[0]
    repeated = op.broadcast(column, op.concat([b.dim(rows), b.integers(1, 1)], 0), broadcast_spec="BIDIRECTIONAL")
    places = b.unsqueeze(b.convert(b.ids(node.input(1)), "float32"), 1)
    angles = b.transpose(op.matmul(repeated, places, False, False), (0, 2, 1))
    both = b.unsqueeze(op.concat([angles, angles], -1), 1)
    cos, sin = op.cos(both), op.sin(both)
    factor = float(attribute(node, "factor"))
    if factor != 1:
        cos, sin = (op.multiply(part, b.number(factor)) for part in (cos, sin))
    return output_of(cos), output_of(sin)


@lowers("rope")
def lower(node: Node, b: Builder) -> None:
    """Turn the two halves of each head's rotary part; the rest of the head stays."""
    x, (cos, sin) = b.heads_first(node.input(0)), _cos_sin(node, b)
    size = fixed(b.type_of(node.input(0)).shape[HEAD_AXIS], "head size", node)
    half = fixed(b.type_of(node.input(2)).shape[0], "frequencies", node)
    rest = None
    if size > 2 * half:
        parts = op.variadic_split(x, b.integer(HEAD_AXIS), b.integers(2 * half, size - 2 * half))
        x, rest = parts.output(0), parts.output(1)
    halves = op.variadic_split(x, b.integer(HEAD_AXIS), b.integers(half, half))
    turned = op.concat([op.multiply(halves.output(1), b.number(-1, 4)), halves.output(0)], -1)
    made = op.add(op.multiply(x, cos), op.multiply(turned, sin))
    b.set_heads_first(node.output, made if rest is None else op.concat([made, rest], -1))


