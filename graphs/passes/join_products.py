"""One product in the place of several over the same input: what the packing passes do once they have chosen.

    a = linear(x, wa); b = linear(x, wb)      ->      a, b = split(linear(x, [wa | wb]))
"""

from __future__ import annotations

from collections.abc import Sequence

from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import infer_types
from kexport.graphs.weights import concatenate

OUT_AXIS = 1


def join_products(graph: Graph, products: Sequence[Node], layer: str) -> None:
    """Join `products`, nodes `linear` over one input whose weights are the graph's, all with a bias or none; parts are split off in their order.

    The packed weight is a lazy concatenation. `layer`: whose the new nodes are.
    """
    first, earliest = products[0], min(products, key=graph.nodes.index)
    weights = tuple(graph.weights[node.input(1)] for node in products)
    inputs = [first.input(0), graph.add_weight(concatenate(weights, OUT_AXIS))]
    if first.input(2):
        inputs.append(graph.add_weight(concatenate(tuple(graph.weights[node.input(2)] for node in products), 0)))
    packed = graph.add_node("linear", inputs, layer=layer, before=earliest)
    axis = len(graph.type_of(packed).shape) - 1
    sizes = tuple(weight.shape[OUT_AXIS] for weight in weights)
    split = Node("split", (packed,), tuple(node.output for node in products), {"axis": axis, "sizes": sizes}, layer)
    for name, type_ in zip(split.outputs, infer_types(graph, split), strict=True):
        graph.types[name] = type_
    graph.nodes.insert(graph.nodes.index(earliest), split)
    for node in products:
        graph.nodes.remove(node)
