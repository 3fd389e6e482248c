"""Ops over an axis: softmax, the reductions, topk, one_hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op

REDUCTIONS: dict[str, Callable[..., Any]] = {"reduce_sum": op.reduce_sum, "reduce_mean": op.reduce_mean, "reduce_max": op.reduce_max}


@lowers("softmax")
def lower_softmax(node: Node, b: Builder) -> None:
    """exp(x - max) / sum."""
    b.set(node.output, op.softmax(b.value(node.input(0)), int(attribute(node, "axis"))))


def _lower_reduction(node: Node, b: Builder) -> None:
    axes, keep = b.integers(*attribute(node, "axes")), bool(attribute(node, "keepdims"))
    b.set(node.output, REDUCTIONS[node.op](b.value(node.input(0)), axes, keep))


for _op in REDUCTIONS:
    lowers(_op)(_lower_reduction)


@lowers("topk")
def lower_topk(node: Node, b: Builder) -> None:
    """The k largest, lower index first on ties."""
    k = b.integer(int(attribute(node, "k")))
    found = op.topk(b.value(node.input(0)), k, axis=-1, mode="max", sort="value", index_element_type="i32", stable=True)
    for index, name in enumerate(node.outputs):
        b.set(name, found.output(index))


@lowers("one_hot")
def lower_one_hot(node: Node, b: Builder) -> None:
    """1 at the index, on a new last axis."""
    indices = b.value(node.input(0))
    places = b.convert(b.range(attribute(node, "depth")), b.type_of(node.input(0)).dtype)
    b.set(node.output, b.convert(op.equal(b.unsqueeze(indices, -1), places), str(attribute(node, "dtype"))))
