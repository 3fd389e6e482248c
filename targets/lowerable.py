"""Graphs as a target can render them: what it has no lowering for is decomposed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kexport.graphs.ir import Graph
from kexport.runtime.contract.errors import UnsupportedError


def lowerable(graph: Graph, lowerings: Collection[str], refusal: Callable[[str, str], UnsupportedError]) -> Graph:
    """`graph` with every op outside `lowerings` decomposed; the graph itself where there is none. `refusal`: the target's own error for an
    op (its name, then " in layer ..." or nothing).

    Raises:
        UnsupportedError: the `refusal` of an op that has neither a lowering nor a decomposition.
    """
    if all(node.op in lowerings for node in graph.nodes):
        return graph
    from kexport.graphs.passes.decompose import decompose

    graph = graph.copy()
    decompose(graph, keep=set(lowerings))
    for node in graph.nodes:
        if node.op not in lowerings:
            place = f" in layer {node.layer}" if node.layer else ""
            raise refusal(node.op, place)
    return graph
