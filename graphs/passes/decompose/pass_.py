"""Take intrinsics apart.

    1  y = op(x, ...)                 ->  y = plain ops           where `op` has a rule and is not kept
    2  a rule that emits intrinsics   ->  taken apart in turn, unless kept

Kept: ops named in `keep`, and ops without a rule (`cache_write`, `cache_read`, the plain ops themselves).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from kexport.graphs.ir import Graph, Node
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.decompose.registry import DECOMPOSITIONS, Emit
from kexport.runtime.contract.errors import InternalError


class Decompose(Pass):
    """See the module."""

    def __init__(self, keep: AbstractSet[str] = frozenset()) -> None:
        self.keep = frozenset(keep)

    def run(self, graph: Graph, result: Result) -> None:
        while nodes := [node for node in graph.nodes if node.op in DECOMPOSITIONS and node.op not in self.keep]:
            for node in nodes:
                self._take_apart(graph, node)
                result.changes += 1

    def _take_apart(self, graph: Graph, node: Node) -> None:
        made = DECOMPOSITIONS[node.op](node, Emit(graph, node))
        for output, value in zip(node.outputs, (made,) if isinstance(made, str) else made, strict=True):
            if graph.type_of(value) != graph.type_of(output):
                raise InternalError("KX908", f"the decomposition of `{node.op}` gives {graph.type_of(value)}, not {graph.type_of(output)}")
            graph.replace_uses(output, value)
            graph.types.pop(output, None)
        graph.nodes.remove(node)


def decompose(graph: Graph, keep: AbstractSet[str]) -> Result:
    """Take every intrinsic apart whose name is not in `keep`, in place. The result counts them."""
    return Decompose(keep)(graph)
