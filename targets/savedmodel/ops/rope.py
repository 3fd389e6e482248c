"""rope: x * [cos, cos] + [second, first] * [-sin, sin], cos and sin made once for all layers."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.savedmodel.builder import Builder, Tensor, number
from kexport.targets.savedmodel.lowering import lowers

LAST = -1


@lowers("rope")
def lower(node: Node, b: Builder) -> None:
    """Rotate the first `2 * half` numbers of each head."""
    x = b.value(node.input(0))
    half, size = int(b.type_of(node.input(2)).shape[0]), int(b.type_of(node.input(0)).shape[LAST])
    rest = size - 2 * half
    first, second, *others = tf.split(x, [half, half, rest] if rest else 2, LAST)
    turning = tf.concat([first, second], LAST) if rest else x
    key = ("rope", node.input(1), node.input(2), float(attribute(node, "factor")))
    cos, sin = b.memo(key, lambda: _cos_and_signed_sin(node, b))
    turned = turning * cos + tf.concat([second, first], LAST) * sin
    b.set(node.output, tf.concat([turned, *others], LAST) if rest else turned)


def _cos_and_signed_sin(node: Node, b: Builder) -> tuple[Tensor, Tensor]:
    """Both [batch, sequence, 1, 2 * half]: float32 position times float32 frequency, as Keras computes it."""
    positions = tf.cast(b.value(node.input(1)), tf.float32)
    angles = positions[:, :, tf.newaxis, tf.newaxis] * tf.cast(b.value(node.input(2)), tf.float32)
    cos, sin = tf.cos(angles), tf.sin(angles)
    factor = float(attribute(node, "factor"))
    if factor != 1:
        cos, sin = cos * number(factor, cos), sin * number(factor, sin)
    return tf.concat([cos, cos], LAST), tf.concat([-sin, sin], LAST)
