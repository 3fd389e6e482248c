"""The table of lowerings: graph op -> function that writes its TFLite operators, with the cases that test it.

A lowering is one function in one file of `ops/`:

    @lowers("silu", cases=[Case("decode step", [Argument((1, 1, 64))], expect=("LOGISTIC", "MUL"))])
    def lower(node: Node, b: Builder) -> None: ...

Ops that are one TFLite operator of the same form stand in ops/plain.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kexport.graphs.dims import Shape
from kexport.graphs.ir import Node
from kexport.runtime.contract.errors import InternalError
from kexport.targets.tflite.builder import Builder
from numpy.typing import NDArray

Lower = Callable[[Node, Builder], None]


@dataclass(frozen=True, slots=True)
class Argument:
    """One input of a test case. Values: `normal`, `positive` (bounded away from 0), `ids` below `limit`, `bool`, or a given `array`."""

    shape: Shape = ()
    dtype: str = "float32"
    role: Literal["input", "weight", "constant"] = "input"
    values: Literal["normal", "positive", "ids", "bool"] = "normal"
    limit: int = 0
    array: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One node with its arguments: run by the interpreter of LiteRT and by ours in tests. `expect`: the TFLite operators, in order."""

    title: str
    arguments: Sequence[Argument]
    attrs: dict[str, Any] = field(default_factory=dict)
    expect: tuple[str, ...] | None = None
    tolerance: float = 2e-6


@dataclass(frozen=True, slots=True)
class Lowering:
    """How one graph op is rendered."""

    op: str
    lower: Lower
    cases: tuple[Case, ...]


LOWERINGS: dict[str, Lowering] = {}


def lowers(op: str, *, cases: Sequence[Case] = ()) -> Callable[[Lower], Lower]:
    """Enter a lowering into the table."""

    def enter(lower: Lower) -> Lower:
        if op in LOWERINGS:
            raise InternalError("KX904", f"op `{op}` has two TFLite lowerings")
        LOWERINGS[op] = Lowering(op, lower, tuple(cases))
        return lower

    return enter
