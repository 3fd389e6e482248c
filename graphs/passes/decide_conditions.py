"""A choice that only depends on sizes, and comes out the same for all of them, is made now.

    where(all keys hidden, 0, attention)      ->      attention          (Gemma; under a causal mask every token sees itself)

The condition is run on the same probe sizes as masks are, the far ones included. Kept: conditions that depend on data or differ between
probes, those that hold a number beyond what is probed, and those of graphs over whole rows, which say nothing of where a call starts: a
window that is wider than the probes would look as if it hid nothing.
"""

from __future__ import annotations

from kexport.graphs.ir import Graph
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.classify_masks import CHUNKS, SIZE_INPUTS, far_probe, run_part
from kexport.graphs.passes.subgraph import ancestors, cut_out


class DecideConditions(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("where"):
            condition, chosen, other = node.inputs
            nodes, leaves = ancestors(graph, [condition])
            if not leaves or not leaves <= SIZE_INPUTS or any("slot" in n.attrs for n in nodes):
                continue
            part = cut_out(graph, [condition])
            far = far_probe(part)
            if far is None:
                continue
            outcomes = [run_part(part, probe)[condition] for probe in (*CHUNKS, far)]
            keep = chosen if all(o.all() for o in outcomes) else other if not any(o.any() for o in outcomes) else None
            if keep is None or graph.type_of(keep) != graph.type_of(node.output):
                continue  # a mask: it hides some keys and shows others
            graph.replace_uses(node.output, keep)
            graph.nodes.remove(node)
            result.changes += 1
