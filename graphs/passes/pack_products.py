"""One product where several take the same input: a feed-forward layer's gate and its values, above all.

    a = linear(x, wa); b = linear(x, wb)      ->      a, b = split(linear(x, [wa | wb]))

One large MatMul reads memory faster than two smaller ones, and each operator has its cost. The packed weight is a lazy concatenation.
Left alone: a product of which others read the weight too (a tied head), products where only some have a bias, and graphs without a cache of
their own: an encoder multiplies many rows at once, and splitting them would copy more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator

from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import infer_types
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.weights import concatenate

OUT_AXIS = 1


class PackProducts(Pass):
    """See the module. Targets whose runtime gains by it run it on their own copy of a graph."""

    def run(self, graph: Graph, result: Result) -> None:
        if not any(slot.kind == "self" for slot in graph.slots.values()):
            return
        for group in list(_groups(graph)):
            _pack(graph, group)
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


def _pack(graph: Graph, group: list[Node]) -> None:
    first = group[0]
    weights = tuple(graph.weights[node.input(1)] for node in group)
    inputs = [first.input(0), graph.add_weight(concatenate(weights, OUT_AXIS))]
    if first.input(2):
        inputs.append(graph.add_weight(concatenate(tuple(graph.weights[node.input(2)] for node in group), 0)))
    packed = graph.add_node("linear", inputs, layer=first.layer, before=first)
    axis = len(graph.type_of(packed).shape) - 1
    sizes = tuple(weight.shape[OUT_AXIS] for weight in weights)
    split = Node("split", (packed,), tuple(node.output for node in group), {"axis": axis, "sizes": sizes}, first.layer)
    for name, type_ in zip(split.outputs, infer_types(graph, split), strict=True):
        graph.types[name] = type_
    graph.nodes.insert(graph.nodes.index(first), split)
    for node in group:
        graph.nodes.remove(node)
