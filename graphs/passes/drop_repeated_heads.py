"""Attention over key-value heads that were repeated one by one reads them unrepeated: grouping heads is what attention does.

    attention(q, repeat(k, group, axis=2), repeat(v, group, axis=2))      ->      attention(q, k, v)

The repetition is found by its effect: the layout ops between a value with fewer heads and the attention are run on probe numbers and compared.
Refused: keys and values that are not repeated alike, or in another order than head by head.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import evaluate
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, VALUE
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.subgraph import cut_out
from kexport.runtime.contract.dtypes import numpy_dtype

LAYOUT = frozenset({"reshape", "broadcast_to"})
RANK, HEADS = 4, 2
PROBED_SIZE = 3  # of every named dim


class DropRepeatedHeads(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("attention"):
            if attribute(node, "slot"):
                continue
            sources = [self._unrepeated(graph, node.input(index)) for index in (KEY, VALUE)]
            key, value = sources
            if not key or not value or graph.type_of(key).shape[HEADS] != graph.type_of(value).shape[HEADS]:
                continue
            inputs = list(node.inputs)
            inputs[KEY], inputs[VALUE] = key, value
            node.inputs = tuple(inputs)
            result.changes += 1

    def _unrepeated(self, graph: Graph, value: str) -> str:
        """The value [batch, sequence, fewer heads, dim] that `value` repeats, `""` where it repeats none."""
        producers = graph.producers()
        wanted, current, repeats = graph.type_of(value).shape, value, False
        while (node := producers.get(current)) is not None and node.op in LAYOUT:
            repeats |= node.op == "broadcast_to"
            current = node.input(0)
            shape = graph.type_of(current).shape
            fits = len(shape) == RANK and shape[:HEADS] == wanted[:HEADS] and shape[HEADS + 1 :] == wanted[HEADS + 1 :]
            if repeats and fits and self._is_repeated(graph, current, value):
                return current
        return ""

    def _is_repeated(self, graph: Graph, source: str, value: str) -> bool:
        type_, wanted = graph.type_of(source), graph.type_of(value)
        if not isinstance(type_.shape[HEADS], int) or int(wanted.shape[HEADS]) % int(type_.shape[HEADS]):
            return False
        names = {part for dim in type_.shape for part in str(dim).split("*") if not part.isdigit()}
        dims = dict.fromkeys(names, PROBED_SIZE)
        numbers = np.random.default_rng(0).standard_normal([evaluate(dim, dims) for dim in type_.shape]).astype(numpy_dtype(type_.dtype))
        repeated = run(cut_out(graph, [value], stop_at=[source]), {source: numbers}, **dims)[value]
        return np.array_equal(repeated, np.repeat(numbers, int(wanted.shape[HEADS]) // int(type_.shape[HEADS]), axis=HEADS))
