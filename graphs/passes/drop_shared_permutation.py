"""Queries and keys that are permuted in the same way along the head dim need no permutation: their dot product does not see it.

    attention(P(q), P(k), v)      ->      attention(q, k, v)             (Gemma interleaves the halves after the rotation)

P is recognised by running it on numbers: any chain of layout ops from one tensor to another of the same shape that only moves
numbers within the last axis, equally everywhere. Refused: different permutations; keys that are read by something else.
The cache then holds unpermuted keys, which nothing else reads.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, QUERY
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.subgraph import ancestors, cut_out

LAYOUT_OPS = frozenset({"reshape", "transpose", "concat", "split", "slice"})
SIZES = {BATCH: 2, SEQUENCE: 3}


def _permutation(graph: Graph, value: str) -> tuple[str, tuple[int, ...]] | None:
    """(source, order) where `value` is `source` with its last axis in another order, and nothing else."""
    stops = {output for node in graph.nodes if node.op not in LAYOUT_OPS for output in node.outputs}
    nodes, leaves = ancestors(graph, [value], stop_at=stops)
    if len(leaves) != 1 or not nodes:
        return None
    (source,) = leaves
    if graph.type_of(source) != graph.type_of(value):
        return None
    shape = tuple(SIZES.get(dim, 0) if isinstance(dim, str) else dim for dim in graph.type_of(source).shape)
    if 0 in shape:
        return None
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    moved = run(cut_out(graph, [value], stop_at=stops), {source: numbers})[value]
    rows = (moved - numbers[..., :1]).reshape(-1, shape[-1]).astype(int)
    order = rows[0]
    is_order = np.array_equal(np.sort(order), np.arange(shape[-1])) and bool((rows == order).all())
    return (source, tuple(int(i) for i in order)) if is_order else None


class DropSharedPermutation(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("attention"):
            if node.input(KEY):
                self._try(graph, node, result)

    def _try(self, graph: Graph, node: Node, result: Result) -> None:
        query, key = _permutation(graph, node.input(QUERY)), _permutation(graph, node.input(KEY))
        if query is None or key is None:
            return
        slot = attribute(node, "slot")
        shared = slot and sum(1 for other in graph.nodes if other.attrs.get("slot") == slot) > 1
        if query[1] != key[1] or shared:
            result.refusals.append(f"{node.layer}: queries and keys are permuted differently, or the cache has other readers")
            return
        inputs = list(node.inputs)
        inputs[QUERY], inputs[KEY] = query[0], key[0]
        node.inputs = tuple(inputs)
        result.changes += 1
