"""delay and keep_last -> CONCATENATION and SLICE; no more than a SLICE of the call where it alone is longer than what is kept."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

TOKENS = 1
_X, _PAST = Argument(("batch", "sequence", 4)), Argument(("batch", 2, 4))
_FORM = ("CONCATENATION", "SLICE")


def _stretch(b: Builder, x: Tensor, past: Tensor, start: int, count: int) -> Tensor:
    """`count` tokens from `start` on of past and x, one behind the other."""
    kept = past.shape[TOKENS]
    if start >= kept:
        return b.part(x, (0, start - kept, 0), (x.shape[0], count, x.shape[2]))
    row = b.memo(("row of tokens", x.name, past.name), lambda: b.joined([past, x], TOKENS))
    return b.part(row, (0, start, 0), (x.shape[0], count, x.shape[2]))


@lowers(
    "delay",
    cases=[
        Case("one back", [_X, _PAST], {"steps": 1}, expect=_FORM),
        Case("as far as is kept", [_X, _PAST], {"steps": 2}, expect=_FORM),
        Case("a call shorter than what is kept", [Argument((1, 1, 4)), Argument((1, 3, 4))], {"steps": 3}, expect=_FORM),
    ],
)
def lower_delay(node: Node, b: Builder) -> None:
    """Each token's predecessor `steps` before it."""
    x, past = (b.value(name) for name in node.inputs)
    start = past.shape[TOKENS] - int(attribute(node, "steps"))
    b.set(node.output, _stretch(b, x, past, start, x.shape[TOKENS]))


@lowers(
    "keep_last",
    cases=[
        Case("a call longer than what is kept", [_X, _PAST], expect=("SLICE",)),
        Case("a call shorter than what is kept", [Argument((1, 1, 4)), Argument((1, 3, 4))], expect=_FORM),
    ],
)
def lower_keep_last(node: Node, b: Builder) -> None:
    """The last tokens of past and x together."""
    x, past = (b.value(name) for name in node.inputs)
    b.set(node.output, _stretch(b, x, past, x.shape[TOKENS], past.shape[TOKENS]))
