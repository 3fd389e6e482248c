"""delay and keep_last -> ConcatV2 and StridedSlice: past and call in one row of tokens, of which a stretch is taken."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.savedmodel.builder import Builder, Tensor
from kexport.targets.savedmodel.lowering import lowers

TOKENS = 1


def _row(node: Node, b: Builder) -> Tensor:
    """past and x, one behind the other; made once for all delays of one input."""
    x, past = node.inputs
    return b.memo(("row of tokens", x, past), lambda: tf.concat([b.value(past), b.value(x)], TOKENS))


def _kept(node: Node, b: Builder) -> int:
    return int(b.type_of(node.input(1)).shape[TOKENS])


@lowers("delay")
def lower_delay(node: Node, b: Builder) -> None:
    """Each token's predecessor `steps` before it."""
    steps = int(attribute(node, "steps"))
    b.set(node.output, _row(node, b)[:, _kept(node, b) - steps : -steps])


@lowers("keep_last")
def lower_keep_last(node: Node, b: Builder) -> None:
    """The last tokens of past and x together."""
    b.set(node.output, tf.ensure_shape(_row(node, b)[:, -_kept(node, b) :], b.value(node.input(1)).shape))
