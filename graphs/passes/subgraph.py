"""Cut out the part of a graph that computes some values, to look at it or to run it on probe numbers."""

from __future__ import annotations

from collections.abc import Iterable

from kexport.graphs.ir import Graph, Node


def ancestors(graph: Graph, values: Iterable[str], *, stop_at: Iterable[str] = ()) -> tuple[list[Node], set[str]]:
    """The nodes that compute `values` in order, and the leaf values they read (inputs, weights, `stop_at`); constants do not count."""
    producers = graph.producers()
    stops = set(stop_at)
    leaves: set[str] = set()
    found: set[int] = set()
    stack = list(values)
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        node = producers.get(name)
        if node is None or name in stops:
            if name not in graph.constants:
                leaves.add(name)
            continue
        found.add(id(node))
        stack += node.inputs
    return [node for node in graph.nodes if id(node) in found], leaves


def cut_out(graph: Graph, values: Iterable[str], *, stop_at: Iterable[str] = ()) -> Graph:
    """A graph of its own that computes `values` from its leaves; outputs are named as the values."""
    wanted = list(values)
    nodes, leaves = ancestors(graph, wanted, stop_at=stop_at)
    part = Graph(f"{graph.name}:part", slots=dict(graph.slots), constants=dict(graph.constants), types=dict(graph.types))
    for leaf in sorted(leaves):
        part.inputs[leaf] = graph.type_of(leaf)
    part.nodes = [Node(node.op, node.inputs, node.outputs, dict(node.attrs), node.layer) for node in nodes]
    part.outputs = {name: name for name in wanted}
    return part
