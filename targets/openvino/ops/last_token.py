"""last_token -> the last column: prompts are padded on the left, so every row ends there."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.openvino.builder import LAST_INDEX, Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("last_token")
def lower(node: Node, b: Builder) -> None:
    """Each row's last real position."""
    b.set(node.output, op.slice(b.value(node.input(0)), b.integers(-1), b.integers(LAST_INDEX), b.integers(1), b.integers(1)))
