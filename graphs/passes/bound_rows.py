"""Say how long rows get where a recurrence over whole rows is put together by doubling: fewer steps than for rows of any length.

    delta_rule_rows(longest=65536)      ->      delta_rule_rows(longest=capacity)
"""

from __future__ import annotations

from kexport.graphs.ir import Graph
from kexport.graphs.ops import attribute
from kexport.graphs.passes.base import Pass, Result


class BoundRows(Pass):
    """See the module. Whoever runs the graph sees to it that no row is longer than `capacity`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("delta_rule_rows"):
            if attribute(node, "longest") != self.capacity:
                node.attrs["longest"] = self.capacity
                result.changes += 1
