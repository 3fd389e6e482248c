"""Graphs as a target can render them: what it has no lowering for is decomposed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kexport.graphs.ir import Graph
from kexport.graphs.passes import Pass, run_passes
from kexport.runtime.contract.errors import UnsupportedError


def lowerable(
    graph: Graph, lowerings: Collection[str], refusal: Callable[[str, str], UnsupportedError], passes: Sequence[Pass] = ()
) -> Graph:
    """`graph` with every op outside `lowerings` decomposed and the target's own `passes` run; the graph itself where there is nothing to do,
    else a copy. `refusal`: the target's own error for an op (its name, then " in layer ..." or nothing).

    Raises:
        UnsupportedError: the `refusal` of an op that has neither a lowering nor a decomposition.
    """
    wanting = any(node.op not in lowerings for node in graph.nodes)
    if not wanting and not passes:
        return graph
    graph = graph.copy()
    if wanting:
        from kexport.graphs.passes.decompose import decompose

        decompose(graph, keep=set(lowerings))
        for node in graph.nodes:
            if node.op not in lowerings:
                place = f" in layer {node.layer}" if node.layer else ""
                raise refusal(node.op, place)
    run_passes(graph, passes)
    return graph
