"""The table of lowerings: graph op -> function that writes its OpenVINO operators.

    @lowers("silu")
    def lower(node: Node, b: Builder) -> None: ...

One file of `ops/` for each form that is not one to one; the ops that are one operator of the same form stand in plain.py.
"""

from __future__ import annotations

from collections.abc import Callable

from kexport.graphs.ir import Node
from kexport.runtime.contract.errors import InternalError
from kexport.targets.openvino.builder import Builder

Lower = Callable[[Node, Builder], None]
LOWERINGS: dict[str, Lower] = {}


def lowers(op: str) -> Callable[[Lower], Lower]:
    """Enter a lowering into the table."""

    def enter(lower: Lower) -> Lower:
        if op in LOWERINGS:
            raise InternalError("KX904", f"op `{op}` has two OpenVINO lowerings")
        LOWERINGS[op] = lower
        return lower

    return enter
