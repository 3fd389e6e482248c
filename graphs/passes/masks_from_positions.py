"""A causal mask computed from one start index for all rows is computed from each row's own positions instead.

    m = (start_index + range(sequence))[:, None] >= range(total)      ->      m = range(total) <= positions[:, :, None]

This is what lets attention that stays plain ops serve rows of different lengths. A mask is any value computed from sizes and the
start index only, and read by something that depends on data; it is run on probe sizes and compared with the causal rule, with and
without a window. Kept (noted): values that follow no rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL
from kexport.graphs.ir import Graph, Node
from kexport.graphs.passes.base import Pass, Result, refresh_types
from kexport.graphs.passes.classify_masks import POSITIONS_INPUT, START_INDEX, causal_rule
from kexport.graphs.passes.subgraph import ancestors, cut_out


def start_frontier(graph: Graph) -> list[tuple[str, Node]]:
    """Values made from sizes and the start index only, with their first reader that is not such a value itself."""
    sized: set[str] = {START_INDEX, *graph.constants}
    started: set[str] = {START_INDEX}
    found: dict[str, Node] = {}
    for node in graph.nodes:
        inputs = [name for name in node.inputs if name]
        if "slot" not in node.attrs and all(name in sized for name in inputs):
            sized.update(node.outputs)
            if any(name in started for name in inputs):
                started.update(node.outputs)
            continue
        for name in inputs:
            if name in started:
                found.setdefault(name, node)
    return list(found.items())


class MasksFromPositions(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        if START_INDEX not in graph.inputs:
            return
        for value, reader in start_frontier(graph):
            rule = self._rule(graph, value)
            if rule is None:
                result.refusals.append(f"{reader.layer or reader.op}: a value computed from the start index is no causal mask")
                continue
            graph.replace_uses(value, self._rebuild(graph, value, rule["window"], reader))
            result.changes += 1
        refresh_types(graph)

    def _rule(self, graph: Graph, value: str) -> dict[str, Any] | None:
        shape = graph.type_of(value).shape
        if len(shape) < 2 or shape[-2:] != (SEQUENCE, TOTAL) or any(dim not in (1, BATCH) for dim in shape[:-2]):
            return None
        if not ancestors(graph, [value])[1] <= {START_INDEX}:
            return None
        return causal_rule(cut_out(graph, [value]), value)

    def _rebuild(self, graph: Graph, value: str, window: int | None, before: Node) -> str:
        type_ = graph.type_of(value)

        def node(op: str, inputs: list[str], **attrs: Any) -> str:
            return graph.add_node(op, inputs, layer=before.layer, before=before, **attrs)

        leading = (1,) * max(len(type_.shape) - 3, 0)
        position = node("reshape", [POSITIONS_INPUT], shape=(BATCH, *leading, SEQUENCE, 1))
        key = node("range", [], size=TOTAL)
        visible = node("le", [key, position])
        if window is not None:
            inside = node("lt", [node("sub", [position, key]), graph.add_constant(np.int32(window))])
            visible = node("and", [visible, inside])
        return visible if type_.dtype == "bool" else node("cast", [visible], dtype=type_.dtype)
