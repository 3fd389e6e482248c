"""Ops over an axis: matmul, softmax, reductions, topk, one_hot."""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import evaluate
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import Argument, Case, Lower, lowers

REDUCTIONS = {"reduce_sum": "SUM", "reduce_mean": "MEAN", "reduce_max": "REDUCE_MAX"}
_X = Argument((2, 3, 8))


@lowers(
    "matmul",
    cases=[
        Case("batches", [_X, Argument((2, 8, 5))], expect=("BATCH_MATMUL",)),
        Case("broadcast", [Argument((1, 2, 3, 8)), Argument((8, 5))], expect=("BATCH_MATMUL",)),
    ],
)
def lower_matmul(node: Node, b: Builder) -> None:
    """Matrix product over the last two axes."""
    left, right = (b.value(name) for name in node.inputs)
    b.set(node.output, b.op("BATCH_MATMUL", [left, right], left.dtype, b.shape_of(node.output)))


@lowers(
    "softmax",
    cases=[
        Case("last axis", [_X], expect=("SOFTMAX",)),
        Case("another axis", [_X], {"axis": 1}, expect=("TRANSPOSE", "SOFTMAX", "TRANSPOSE")),
    ],
)
def lower_softmax(node: Node, b: Builder) -> None:
    """SOFTMAX goes over the last axis only."""
    x = b.value(node.input(0))
    rank = len(x.shape)
    order = list(range(rank))
    axis = int(attribute(node, "axis")) % rank
    order[axis], order[-1] = order[-1], order[axis]
    swapped = x if axis == rank - 1 else b.transpose(x, tuple(order))
    shares = b.unary("SOFTMAX", swapped, beta=1.0)
    b.set(node.output, shares if axis == rank - 1 else b.transpose(shares, tuple(order)))


def _reduction(form: str) -> Lower:
    def lower(node: Node, b: Builder) -> None:
        x, axes = b.value(node.input(0)), tuple(attribute(node, "axes"))
        keep = bool(attribute(node, "keepdims"))
        b.set(node.output, b.op(form, [x, b.integers(*axes)], x.dtype, b.shape_of(node.output), keep_dims=keep))

    return lower


for _op, _form in REDUCTIONS.items():
    _cases = [
        Case("kept", [_X], {"axes": (2,), "keepdims": True}, expect=(_form,)),
        Case("two axes", [_X], {"axes": (0, 2)}, expect=(_form,)),
    ]
    lowers(_op, cases=_cases)(_reduction(_form))


@lowers("topk", cases=[Case("three of eight", [_X], {"k": 3}, expect=("TOPK_V2",))])
def lower_topk(node: Node, b: Builder) -> None:
    """The k largest of the last axis, and where they stand."""
    x, shape = b.value(node.input(0)), b.shape_of(node.output)
    parts = b.operator("TOPK_V2", [x, b.constant(np.int32(attribute(node, "k")))], [(x.dtype, shape), ("int32", shape)])
    for name, part in zip(node.outputs, parts, strict=True):
        b.set(name, part)


@lowers(
    "one_hot",
    cases=[Case("float", [Argument((2, 3), "int32", values="ids", limit=5)], {"depth": 5}, expect=("ONE_HOT",))],
)
def lower_one_hot(node: Node, b: Builder) -> None:
    """1 at the index and 0 elsewhere, on a new last axis."""
    dtype = str(attribute(node, "dtype"))
    depth = b.constant(np.int32(evaluate(attribute(node, "depth"), b.sizes)))
    on, off = (b.constant(np.asarray(number, numpy_dtype(dtype))) for number in (1, 0))
    b.set(node.output, b.op("ONE_HOT", [b.value(node.input(0)), depth, on, off], dtype, b.shape_of(node.output), axis=-1))
