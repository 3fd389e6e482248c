"""Compute equal things once.

    a = range(n); b = range(n); f(a, b)      ->      a = range(n); f(a, a)

Not merged: nodes that touch a cache slot.
"""

from __future__ import annotations

from kexport.graphs.ir import Graph
from kexport.graphs.passes.base import Pass, Result


class MergeEqualNodes(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        seen: dict[object, tuple[str, ...]] = {}
        for node in list(graph.nodes):
            if "slot" in node.attrs:
                continue
            key = (node.op, node.inputs, tuple(sorted(node.attrs.items(), key=lambda item: item[0])))
            first = seen.setdefault(key, node.outputs)
            if first is node.outputs:
                continue
            for old, new in zip(node.outputs, first, strict=True):
                graph.replace_uses(old, new)
            graph.nodes.remove(node)
            result.changes += 1
