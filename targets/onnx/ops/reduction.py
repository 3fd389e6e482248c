"""Ops over an axis: softmax, the reductions, topk, one_hot."""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder, fixed
from kexport.targets.onnx.lowering import Argument, Case, lowers

REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax"}
OF_INTEGERS = {"reduce_sum", "reduce_max"}
_X = Argument((2, 3, 8))
_IDS = Argument((2, 8), "int32", values="ids", limit=9)
_TIES = Argument(role="constant", array=np.tile(np.array([1, 3, 2, 3], np.float32), (2, 16)))


@lowers("softmax", cases=[Case("last", [_X], expect=("Softmax",)), Case("middle", [_X], {"axis": 1}, expect=("Softmax",))])
def lower_softmax(node: Node, b: Builder) -> None:
    """exp(x - max) / sum."""
    x = b.value(node.input(0))
    b.set(node.output, b.op("Softmax", [x], x.dtype, x.shape, axis=int(attribute(node, "axis"))))


def _lower_reduction(node: Node, b: Builder) -> None:
    type_ = b.type_of(node.output)
    inputs = [b.value(node.input(0)), b.integers(*attribute(node, "axes"))]
    b.set(node.output, b.op(REDUCTIONS[node.op], inputs, type_.dtype, type_.shape, keepdims=int(bool(attribute(node, "keepdims")))))


for _op, _operator in REDUCTIONS.items():
    lowers(
        _op,
        cases=[
            Case("one axis", [_X], {"axes": (2,)}, expect=(_operator,)),
            Case("kept", [_X], {"axes": (0, 2), "keepdims": True}, expect=(_operator,)),
            *([Case("integers", [_IDS], {"axes": (1,)}, expect=(_operator,))] if _op in OF_INTEGERS else []),
        ],
    )(_lower_reduction)


@lowers("topk", cases=[Case("two", [_X], {"k": 2}, expect=("TopK", "Cast")), Case("ties", [_TIES], {"k": 20})])
def lower_topk(node: Node, b: Builder) -> None:
    """The k largest, lower index first on ties (onnxruntime's TopK keeps that order)."""
    x, shape = b.value(node.input(0)), b.type_of(node.output).shape
    values, indices = b.operator(
        "TopK", [x, b.integers(int(attribute(node, "k")))], [(x.dtype, shape), ("int64", shape)], axis=-1, largest=1, sorted=1
    )
    b.set(node.outputs[0], values)
    b.set(node.outputs[1], b.cast(indices, "int32"))


@lowers(
    "one_hot",
    cases=[
        Case("numbers", [Argument((2, 3), "int32", values="ids", limit=5)], {"depth": 5}, expect=("Unsqueeze", "Equal", "Cast")),
        Case("flags", [Argument((2, 3), "int32", values="ids", limit=5)], {"depth": 5, "dtype": "bool"}, expect=("Unsqueeze", "Equal")),
        Case("named depth", [Argument((2, "sequence"), "int32", values="ids", limit=2)], {"depth": "sequence"}),
    ],
)
def lower_one_hot(node: Node, b: Builder) -> None:
    """1 at the index, on a new last axis."""
    indices, depth = b.value(node.input(0)), attribute(node, "depth")
    shape = b.type_of(node.output).shape
    last = b.op("Unsqueeze", [indices, b.integers(-1)], indices.dtype, (*indices.shape, 1))
    places = (
        b.constant(np.arange(fixed(depth, "depth", node)).astype(indices.dtype))
        if isinstance(depth, int)
        else b.cast(b.range(depth), indices.dtype)
    )
    b.set(node.output, b.cast(b.op("Equal", [last, places], "bool", shape), str(attribute(node, "dtype"))))
