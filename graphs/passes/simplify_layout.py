"""Remove layout ops that do nothing.

    1  reshape(reshape(x))                      ->  reshape(x)
    2  reshape, broadcast_to to x's own shape   ->  x
    3  transpose(transpose(x, p), q)            ->  transpose(x, p then q), or x where that is the identity
    4  cast to x's own dtype                    ->  x
"""

from __future__ import annotations

from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.passes.base import Pass, Result


def _does_nothing(graph: Graph, node: Node) -> bool:
    if node.op in ("reshape", "broadcast_to", "cast"):
        return graph.type_of(node.input(0)) == graph.type_of(node.output)
    return node.op == "transpose" and tuple(attribute(node, "permutation")) == tuple(range(len(attribute(node, "permutation"))))


class SimplifyLayout(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        producers = graph.producers()
        for node in graph.of_op("reshape", "transpose", "broadcast_to", "cast"):
            inner = producers.get(node.input(0))
            if inner is not None and inner.op == node.op == "reshape":
                node.inputs = inner.inputs
                result.changes += 1
            elif inner is not None and inner.op == node.op == "transpose":
                first, second = attribute(inner, "permutation"), attribute(node, "permutation")
                node.inputs, node.attrs["permutation"] = inner.inputs, tuple(first[axis] for axis in second)
                result.changes += 1
            if _does_nothing(graph, node):
                graph.replace_uses(node.output, node.input(0))
                graph.nodes.remove(node)
                result.changes += 1
