"""The table of decompositions and the small vocabulary their formulas are written in.

@decomposes("silu")
def silu(node, emit):
    x = emit.input(0)
    return emit("mul", x, emit("sigmoid", x))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from kexport.graphs.dims import Dim
from kexport.graphs.ir import Graph, Node, TensorType
from kexport.graphs.ops import OPS, attribute
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError

NARROW_BYTES = np.dtype(np.float32).itemsize


class Emit:
    """Adds plain ops in front of the node that is taken apart; values are names."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def __call__(self, op: str, *inputs: str, **attrs: Any) -> str:
        """Add one op; its type follows from the op's rule."""
        return self.graph.add_node(op, inputs, layer=self.node.layer, before=self.node, **attrs)

    def input(self, index: int) -> str:
        """The node's input `index`, `""` where absent."""
        return self.node.input(index)

    def attr(self, name: str) -> Any:
        """The node's attribute or its default."""
        return attribute(self.node, name)

    def type_of(self, value: str) -> TensorType:
        """The value's dtype and shape."""
        return self.graph.type_of(value)

    def number(self, number: float, like: str) -> str:
        """A scalar constant of `like`'s dtype."""
        return self.graph.add_constant(np.asarray(number, numpy_dtype(self.type_of(like).dtype)))

    def cast(self, value: str, dtype: str) -> str:
        """The value in another dtype, itself where it has it."""
        return value if self.type_of(value).dtype == dtype else self("cast", value, dtype=dtype)

    def widened(self, value: str) -> str:
        """The value in float32 where its own float is narrower: the dtype in which norms and rotations are computed."""
        narrow = numpy_dtype(self.type_of(value).dtype).itemsize < NARROW_BYTES
        return self.cast(value, "float32") if narrow else value

    def reshape(self, value: str, *shape: Dim) -> str:
        """The same numbers in another shape."""
        return value if self.type_of(value).shape == shape else self("reshape", value, shape=shape)


Rule = Callable[[Node, Emit], str | tuple[str, ...]]  # a value for each output of the node
DECOMPOSITIONS: dict[str, Rule] = {}


def decomposes(op: str) -> Callable[[Rule], Rule]:
    """Register the rule that rebuilds an intrinsic's output, or outputs, from plain ops.

    Raises:
        InternalError: no such intrinsic, or a second rule for it.
    """
    if op not in OPS or not OPS[op].intrinsic or op in DECOMPOSITIONS:
        raise InternalError("KX904", f"`{op}` is no intrinsic that still needs a decomposition")

    def register(rule: Rule) -> Rule:
        DECOMPOSITIONS[op] = rule
        return rule

    return register
