"""delay and keep_last -> Concat and Slice: past and call in one row of tokens, of which a stretch is taken."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import LAST_INDEX, Builder, Output, fixed, output_of
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op

TOKENS = 1


def _row(node: Node, b: Builder) -> Output:
    """past and x, one behind the other; made once for all delays of one input."""
    x, past = node.inputs
    return b.memo(("row of tokens", x, past), lambda: output_of(op.concat([b.value(past), b.value(x)], TOKENS)))


@lowers("delay")
def lower_delay(node: Node, b: Builder) -> None:
    """Each token's predecessor `steps` before it."""
    steps = int(attribute(node, "steps"))
    start = fixed(b.type_of(node.input(1)).shape[1], "the past", node) - steps
    b.set(node.output, op.slice(_row(node, b), b.integers(start), b.integers(-steps), b.integers(1), b.integers(TOKENS)))


@lowers("keep_last")
def lower_keep_last(node: Node, b: Builder) -> None:
    """The last tokens of past and x together."""
    kept = fixed(b.type_of(node.input(1)).shape[1], "the past", node)
    b.set(node.output, op.slice(_row(node, b), b.integers(-kept), b.integers(LAST_INDEX), b.integers(1), b.integers(TOKENS)))
