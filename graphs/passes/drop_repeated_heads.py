"""Attention over key-value heads that were repeated one by one reads them unrepeated: grouping heads is what attention does.

    attention(q, repeat(k, group, axis=2), repeat(v, group, axis=2))      ->      attention(q, k, v)

The repetition is found by its effect: the layout ops between a value with fewer heads and the attention are run on probe numbers
and compared. Refused: keys and values that are not repeated alike, or in another order than head by head.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import Shape, evaluate, product, quotient
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, VALUE
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.subgraph import cut_out
from kexport.runtime.contract.dtypes import numpy_dtype

LAYOUT = frozenset({"reshape", "broadcast_to"})
HEADS = 2
PROBED_SIZE = 3  # of every named dim


class DropRepeatedHeads(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("attention"):
            if attribute(node, "slot"):
                continue
            key, value = (self._unrepeated(graph, node.input(index)) for index in (KEY, VALUE))
            if key is None or value is None or key[1][HEADS] != value[1][HEADS]:
                continue
            inputs = list(node.inputs)
            for index, (source, shape) in ((KEY, key), (VALUE, value)):
                same = graph.type_of(source).shape == shape
                inputs[index] = source if same else graph.add_node("reshape", [source], layer=node.layer, before=node, shape=shape)
            node.inputs = tuple(inputs)
            result.changes += 1

    def _unrepeated(self, graph: Graph, value: str) -> tuple[str, Shape] | None:
        """What `value` [batch, sequence, heads, dim] repeats, and the shape with fewer heads that it must be seen in; None where it repeats nothing."""
        producers = graph.producers()
        batch, sequence, heads, dim = graph.type_of(value).shape
        current, repeats = value, False
        while (node := producers.get(current)) is not None and node.op in LAYOUT:
            repeats |= node.op == "broadcast_to"
            current = node.input(0)
            fewer = quotient(product(graph.type_of(current).shape), product((batch, sequence, dim)))
            if repeats and isinstance(fewer, int) and fewer and int(heads) % fewer == 0:
                shape: Shape = (batch, sequence, fewer, dim)
                deeper = producers.get(current)
                if (deeper is None or deeper.op not in LAYOUT) and self._is_repeated(graph, current, shape, value):
                    return current, shape
        return None

    def _is_repeated(self, graph: Graph, source: str, shape: Shape, value: str) -> bool:
        type_ = graph.type_of(source)
        names = {part for size in type_.shape for part in str(size).split("*") if not part.isdigit()}
        dims = dict.fromkeys(names, PROBED_SIZE)
        numbers = np.random.default_rng(0).standard_normal([evaluate(size, dims) for size in type_.shape]).astype(numpy_dtype(type_.dtype))
        repeated = run(cut_out(graph, [value], stop_at=[source]), {source: numbers}, None, None, **dims)[value]
        seen = numbers.reshape([evaluate(size, dims) for size in shape])
        return np.array_equal(repeated, np.repeat(seen, repeated.shape[HEADS] // seen.shape[HEADS], axis=HEADS))
