"""delta_rule -> If: one token's update, or the parallel form over a chunk. Both are decompositions; neither holds weights."""

from __future__ import annotations

from typing import Any

from kexport.graphs.dims import Dim
from kexport.graphs.ir import Node
from kexport.targets.lowerable import taken_apart
from kexport.targets.onnx.builder import Branch, Builder, Tensor
from kexport.targets.onnx.lowering import LOWERINGS, Argument, Case, lowers

SEQUENCE_AXIS = 1
EXPECTED = ("Shape", "Equal", "If")


def _arguments(sequence: Dim, decays: int) -> list[Argument]:
    """query, key, value, log_decay (0: the state is kept whole), erase, write, state."""
    key, value = Argument(("batch", sequence, 2, 4)), Argument(("batch", sequence, 2, 3))
    decay = Argument(("batch", sequence, 2, decays), "float32", values="ids", limit=1)
    return [key, key, value, decay, key, key, Argument(("batch", 2, 4, 3))]


def _branch(node: Node, b: Builder, sizes: dict[str, int]) -> Branch:
    return b.branch(taken_apart(b.graph, node, LOWERINGS, sizes), lambda inner: LOWERINGS[inner.op].lower(inner, b))


def _one_token(b: Builder, sequence: Dim) -> Tensor:
    return b.memo(("one token", sequence), lambda: b.op("Equal", [b.dim(sequence), b.integers(1)], "bool", (1,)))


@lowers(
    "delta_rule",
    cases=[
        Case("a chunk", _arguments("sequence", 1), {"chunk": 4}, expect=EXPECTED, tolerance=2e-5),
        Case("a decay for every channel", _arguments("sequence", 4), {"chunk": 4}, expect=EXPECTED, tolerance=2e-5),
        Case("one token", _arguments(1, 1), {"chunk": 4}, tolerance=2e-5),
        Case("fixed", _arguments(5, 4), {"chunk": 4}, tolerance=2e-5),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Which form goes is decided by the call's number of tokens."""
    sequence = b.type_of(node.input(0)).shape[SEQUENCE_AXIS]
    one = {sequence: 1} if isinstance(sequence, str) else {}
    branches: dict[str, Any] = {"then_branch": _branch(node, b, one), "else_branch": _branch(node, b, {})}
    types = [(b.type_of(name).dtype, b.type_of(name).shape) for name in node.outputs]
    made = b.operator("If", [_one_token(b, sequence)], types, **branches)
    for name, tensor in zip(node.outputs, made, strict=True):
        b.set(name, tensor)
