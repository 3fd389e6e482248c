"""The table of lowerings: graph op -> function that adds its TensorFlow operators to the function being traced.

    @lowers("silu")
    def lower(node: Node, b: Builder) -> None: ...

Ops that are one TensorFlow operator of the same form stand in ops/plain.py.
"""

from __future__ import annotations

from collections.abc import Callable

from kexport.graphs.ir import Node
from kexport.runtime.contract.errors import InternalError
from kexport.targets.savedmodel.builder import Builder

Lower = Callable[[Node, Builder], None]
LOWERINGS: dict[str, Lower] = {}


def lowers(op: str) -> Callable[[Lower], Lower]:
    """Enter a lowering into the table."""

    def enter(lower: Lower) -> Lower:
        if op in LOWERINGS:
            raise InternalError("KX904", f"op `{op}` has two SavedModel lowerings")
        LOWERINGS[op] = lower
        return lower

    return enter
