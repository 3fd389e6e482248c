"""Remove nodes, constants, weights, inputs and slots that no output needs.

    y = f(x); z = g(x); output y      ->      y = f(x); output y

Kept: nodes that write a cache slot another kept node reads. Inputs named in `keep_inputs` stay even if unread.
"""

from __future__ import annotations

from kexport.graphs.ir import Graph, Node
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.subgraph import ancestors


class RemoveDeadCode(Pass):
    """See the module."""

    def __init__(self, keep_inputs: frozenset[str] = frozenset()) -> None:
        self.keep_inputs = keep_inputs

    def run(self, graph: Graph, result: Result) -> None:
        nodes = self._needed_nodes(graph)
        result.changes += len(graph.nodes) - len(nodes)
        graph.nodes = nodes
        read = {name for node in nodes for name in node.inputs} | set(graph.outputs.values())
        graph.constants = {name: array for name, array in graph.constants.items() if name in read}
        graph.weights = {name: weight for name, weight in graph.weights.items() if name in read}
        graph.inputs = {name: type_ for name, type_ in graph.inputs.items() if name in read or name in self.keep_inputs}
        used = {node.attrs.get(name) for node in nodes for name in ("slot", "cross_slot")}
        graph.slots = {name: slot for name, slot in graph.slots.items() if name in used}
        known = read | set(graph.inputs) | {name for node in nodes for name in node.outputs}
        graph.types = {name: type_ for name, type_ in graph.types.items() if name in known}

    def _needed_nodes(self, graph: Graph) -> list[Node]:
        wanted = set(graph.outputs.values())
        while True:
            nodes, _ = ancestors(graph, wanted)
            slots = {node.attrs.get("slot") for node in nodes} - {None}
            writers = {
                node.output
                for node in graph.nodes
                if node.attrs.get("slot") in slots and (node.op == "cache_write" or node.attrs.get("write"))
            }
            if writers <= wanted:
                return nodes
            wanted |= writers
