"""delay and keep_last -> Concat and Slice: past and call in one row of tokens, of which a stretch is taken."""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder, Tensor, fixed
from kexport.targets.onnx.lowering import Argument, Case, lowers

_X, _PAST = Argument(("batch", "sequence", 4)), Argument(("batch", 2, 4))
_FORM = ("Concat", "Slice")


def _row(b: Builder, x: Tensor, past: Tensor) -> Tensor:
    """past and x, one behind the other; made once for all delays of one input."""
    shape = (x.shape[0], "past_and_sequence", x.shape[2])
    return b.memo(("row of tokens", x.name, past.name), lambda: b.op("Concat", [past, x], x.dtype, shape, axis=1))


@lowers(
    "delay",
    cases=[
        Case("one back", [_X, _PAST], {"steps": 1}, expect=_FORM),
        Case("as far as is kept", [_X, _PAST], {"steps": 2}, expect=_FORM),
        Case("fixed", [Argument((2, 5, 4)), Argument((2, 3, 4))], {"steps": 2}, expect=_FORM),
        Case("a call shorter than what is kept", [Argument((2, 1, 4)), Argument((2, 3, 4))], {"steps": 3}, expect=_FORM),
    ],
)
def lower_delay(node: Node, b: Builder) -> None:
    """Each token's predecessor `steps` before it."""
    x, past = (b.value(name) for name in node.inputs)
    steps = int(attribute(node, "steps"))
    bounds = [b.integers(fixed(past.shape[1], "the past", node) - steps), b.integers(-steps), b.integers(1)]
    b.set(node.output, b.op("Slice", [_row(b, x, past), *bounds], x.dtype, x.shape))


@lowers(
    "keep_last",
    cases=[
        Case("named", [_X, _PAST], expect=_FORM),
        Case("a call shorter than what is kept", [Argument((2, 1, 4)), Argument((2, 3, 4))], expect=_FORM),
        Case("one kept", [Argument((2, 5, 4)), Argument((2, 1, 4))], expect=_FORM),
    ],
)
def lower_keep_last(node: Node, b: Builder) -> None:
    """The last tokens of past and x together."""
    x, past = (b.value(name) for name in node.inputs)
    end = np.iinfo(np.int64).max
    bounds = [b.integers(-fixed(past.shape[1], "the past", node)), b.integers(end), b.integers(1)]
    b.set(node.output, b.op("Slice", [_row(b, x, past), *bounds], past.dtype, past.shape))
