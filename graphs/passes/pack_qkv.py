"""One product for queries, keys and values.

    q = linear(x, wq); k = linear(x, wk); v = linear(x, wv)      ->      q, k, v = split(linear(x, [wq | wk | wv]))

The three are found behind an attention that writes its cache (or, with `uncached`, that keeps none), through reshapes and rotations. The packed weight is a lazy
concatenation. Refused: different inputs, a bias on some only, a product that has another reader.
"""

from __future__ import annotations

from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, QUERY, VALUE
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.join_products import join_products

THROUGH = frozenset({"reshape", "rope"})


class PackQueryKeyValue(Pass):
    """See the module. `uncached`: for a graph without caches, so that its weights are those of the graph with them."""

    def __init__(self, *, uncached: bool = False) -> None:
        self.uncached = uncached

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("attention"):
            if attribute(node, "write") or (self.uncached and not attribute(node, "slot")):
                self._pack(graph, node, result)

    def _pack(self, graph: Graph, node: Node, result: Result) -> None:
        linears = [self._linear_behind(graph, node.input(index)) for index in (QUERY, KEY, VALUE)]
        if any(linear is None for linear in linears):
            return  # computed otherwise, or packed already
        products = [linear for linear in linears if linear is not None]
        readers = graph.readers()
        if len({linear.input(0) for linear in products}) != 1 or len({bool(linear.input(2)) for linear in products}) != 1:
            result.refusals.append(f"{node.layer}: queries, keys and values come from different inputs, or only some have a bias")
            return
        if len({linear.output for linear in products}) != len(products) or any(len(readers[linear.output]) != 1 for linear in products):
            result.refusals.append(f"{node.layer}: a product is read elsewhere, too")
            return
        join_products(graph, products, node.layer)
        result.changes += 1

    def _linear_behind(self, graph: Graph, value: str) -> Node | None:
        producers = graph.producers()
        node = producers.get(value)
        while node is not None and node.op in THROUGH:
            node = producers.get(node.input(0))
        return node if node is not None and node.op == "linear" else None
