"""Evaluate nodes whose inputs are all constants.

    sqrt(constant 256)      ->      constant 16

Refused: results above 64 KiB (they would swell the graph), attributes with named dims. Weights are never folded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import Evaluation, spec_of
from kexport.graphs.passes.base import Pass, Result

LARGEST_BYTES = 1 << 16


def _named(attribute: Any) -> bool:
    return isinstance(attribute, tuple) and any(isinstance(item, str) for item in attribute)


def _foldable(graph: Graph, node: Node) -> bool:
    sizes = node.attrs.get("size", node.attrs.get("dim", node.attrs.get("depth", 0)))
    named = isinstance(sizes, str) or any(_named(attribute) for attribute in node.attrs.values())
    return not named and "slot" not in node.attrs and all(name in graph.constants for name in node.inputs)


class FoldConstants(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in list(graph.nodes):
            if not _foldable(graph, node):
                continue
            arrays = spec_of(node).evaluate(Evaluation({}), node, [graph.constants[name] for name in node.inputs])
            if sum(np.asarray(array).nbytes for array in arrays) > LARGEST_BYTES:
                result.refusals.append(f"{node.op} gives more than {LARGEST_BYTES} bytes")
                continue
            for name, array in zip(node.outputs, arrays, strict=True):
                graph.constants[name] = np.asarray(array)
            graph.nodes.remove(node)
            result.changes += 1
