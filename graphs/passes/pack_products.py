"""One product where several take the same input: a feed-forward layer's gate and its values, above all.

    a = linear(x, wa); b = linear(x, wb)      ->      a, b = split(linear(x, [wa | wb]))

One large MatMul reads memory faster than two smaller ones, and each operator has its cost. The packed weight is a lazy concatenation.
Left alone: a product of which others read the weight too (a tied head), products where only some have a bias, and graphs without a cache of
their own: an encoder multiplies many rows at once, and splitting them would copy more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator

from kexport.graphs.ir import Graph, Node
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.join_products import join_products


class PackProducts(Pass):
    """See the module. Targets whose runtime gains by it run it on their own copy of a graph."""

    def run(self, graph: Graph, result: Result) -> None:
        if not any(slot.kind == "self" for slot in graph.slots.values()):
            return
        for group in list(_groups(graph)):
            join_products(graph, group, group[0].layer)
            result.changes += 1


def _groups(graph: Graph) -> Iterator[list[Node]]:
    by_input: dict[tuple[str, bool], list[Node]] = {}
    readers = graph.readers()
    parameters = [parameter for weight in graph.weights.values() for parameter in weight.parameters()]
    for node in graph.of_op("linear"):
        weight = graph.weights.get(node.input(1))
        bias_is_weight = not node.input(2) or node.input(2) in graph.weights
        if weight is None or not bias_is_weight or len(readers[node.input(1)]) > 1:
            continue
        if all(parameters.count(parameter) == 1 for parameter in weight.parameters()):
            by_input.setdefault((node.input(0), bool(node.input(2))), []).append(node)
    return (group for group in by_input.values() if len(group) > 1)
