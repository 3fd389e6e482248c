"""Ops over an axis: softmax, reductions, topk, one_hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.savedmodel.builder import Builder
from kexport.targets.savedmodel.lowering import Lower, lowers

REDUCTIONS = {"reduce_sum": tf.reduce_sum, "reduce_mean": tf.reduce_mean, "reduce_max": tf.reduce_max}


@lowers("softmax")
def lower_softmax(node: Node, b: Builder) -> None:
    """exp(x - max) / sum over one axis."""
    b.set(node.output, tf.nn.softmax(b.value(node.input(0)), axis=int(attribute(node, "axis"))))


def _reduction(function: Callable[..., Any]) -> Lower:
    def lower(node: Node, b: Builder) -> None:
        b.set(node.output, function(b.value(node.input(0)), axis=list(attribute(node, "axes")), keepdims=bool(attribute(node, "keepdims"))))

    return lower


for _op, _function in REDUCTIONS.items():
    lowers(_op)(_reduction(_function))


@lowers("topk")
def lower_topk(node: Node, b: Builder) -> None:
    """The k largest of the last axis, and where they stand."""
    for name, part in zip(node.outputs, tf.math.top_k(b.value(node.input(0)), int(attribute(node, "k"))), strict=True):
        b.set(name, part)


@lowers("one_hot")
def lower_one_hot(node: Node, b: Builder) -> None:
    """1 at the index and 0 elsewhere, on a new last axis."""
    dtype = tf.as_dtype(str(attribute(node, "dtype")))
    on, off = (tf.cast(number, dtype) for number in (1, 0))
    b.set(node.output, tf.one_hot(b.value(node.input(0)), b.size_tensor(attribute(node, "depth")), on, off))
