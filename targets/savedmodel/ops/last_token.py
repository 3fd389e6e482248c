"""last_token: nothing where there is one token, else one gathered row of each."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.targets.savedmodel.builder import Builder, Tensor
from kexport.targets.savedmodel.lowering import lowers


@lowers("last_token")
def lower(node: Node, b: Builder) -> None:
    """The row's last real position."""
    x = b.value(node.input(0))
    if b.size(b.type_of(node.input(0)).shape[1]) == 1:
        b.set(node.output, x)
        return
    b.set(node.output, last_of(x, b.value(node.input(1))))


def last_of(x: Tensor, lengths: Tensor) -> Tensor:
    """x [batch, sequence, dim] at lengths - 1: [batch, 1, dim]."""
    return tf.gather(x, tf.expand_dims(lengths - 1, 1), axis=1, batch_dims=1)
