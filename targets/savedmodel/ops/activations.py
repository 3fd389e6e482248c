"""gelu and silu, by their formulas in graphs/ops/activations.py."""

from __future__ import annotations

import math

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.activations import CUBIC
from kexport.targets.savedmodel.builder import Builder, Tensor, number
from kexport.targets.savedmodel.lowering import lowers


@lowers("gelu")
def lower_gelu(node: Node, b: Builder) -> None:
    """Exact or by tanh."""
    b.set(node.output, gelu(b.value(node.input(0)), approximate=bool(attribute(node, "approximate"))))


def gelu(x: Tensor, *, approximate: bool) -> Tensor:
    """0.5 x (1 + erf(x / sqrt 2)), or its approximation by tanh."""
    if approximate:
        inner = tf.tanh(number(math.sqrt(2 / math.pi), x) * (x + number(CUBIC, x) * (x * x * x)))
    else:
        inner = tf.math.erf(x * number(math.sqrt(0.5), x))
    return number(0.5, x) * x * (number(1, x) + inner)


@lowers("silu")
def lower_silu(node: Node, b: Builder) -> None:
    """x * sigmoid(x)."""
    x = b.value(node.input(0))
    b.set(node.output, x * tf.sigmoid(x))
