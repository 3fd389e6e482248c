"""linear -> a MatMul of rank 2 over [out, in]: a tied head reads the embedding table itself, and no batched product is ever written.

A weight that is stored narrow is widened at every call, where one token a row is to be had inside a compiled product.

Rank 2 is what makes it fast: over three axes the product becomes a BatchMatMul, which oneDNN runs at half the memory's speed for one token.
"""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.targets.savedmodel.builder import OPEN, Builder, Tensor
from kexport.targets.savedmodel.lowering import lowers

OUT_FIRST = (1, 0)
MATRIX = 2


@lowers("linear")
def lower(node: Node, b: Builder) -> None:
    """x @ weight + bias."""
    x, bias = node.input(0), b.optional(node.input(2))
    shape = b.type_of(x).shape
    result = _product(node, b, _flat(b, x))
    result = result if bias is None else result + bias
    b.set(node.output, result if len(shape) == MATRIX else b.reshape(result, b.type_of(node.output).shape))


def _flat(b: Builder, name: str) -> Tensor:
    """The value as [rows, in]."""
    x, shape = b.value(name), b.type_of(name).shape
    if len(shape) == MATRIX:
        return x
    return b.memo(("flat", name), lambda: tf.reshape(x, [OPEN, int(shape[-1])]))


def _product(node: Node, b: Builder, flat: Tensor) -> Tensor:
    name = node.input(1)
    if name not in b.graph.weights:
        return tf.matmul(flat, b.value(name))
    weight = b.graph.weights[name].transpose(OUT_FIRST)
    stored = b.weights.stored_form(weight)
    if stored.dtype != weight.dtype and b.one_token:
        return _widening_product(flat, b.narrow(stored).read_value())
    return tf.matmul(flat, b.weight(weight), transpose_b=True)


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
def _widening_product(x: Tensor, rows: Tensor) -> Tensor:
    """x @ rows^T over narrow rows, widened while they are read: XLA writes no wide copy, which costs more than the product itself."""
    return tf.matmul(x, tf.cast(rows, x.dtype), transpose_b=True)
