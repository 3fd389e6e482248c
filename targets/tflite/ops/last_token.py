"""last_token: nothing where there is one token, else GATHER at lengths - 1."""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.runtime.contract.errors import UnsupportedError
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import Argument, Case, lowers


@lowers(
    "last_token",
    cases=[
        Case("one token", [Argument((1, 1, 8)), Argument((1,), "int32", values="positive", limit=1)]),
        Case("several", [Argument((1, 4, 8)), Argument((1,), "int32", values="positive", limit=4)]),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """The row's last real position."""
    x = b.value(node.input(0))
    if x.shape[1] == 1:
        b.set(node.output, x)
        return
    if x.shape[0] != 1:
        raise UnsupportedError("KX231", f"last_token of {x.shape[0]} rows: a TFLite signature takes one row")
    index = b.binary("SUB", b.value(node.input(1)), b.constant(np.int32(1)))
    b.set(node.output, b.op("GATHER", [x, index], x.dtype, b.shape_of(node.output), axis=1))
