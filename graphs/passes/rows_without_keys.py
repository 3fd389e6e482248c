"""A token that sees no key gets zeros in so many words, where a mask tensor may hide everything from it.

    y = attention(q, k, v, mask)      ->      y = where(any key of mask is visible, attention(q, k, v, mask), 0)

A window without a cache becomes part of the mask, so that what it hides counts.

That is attention's meaning already. Targets whose softmax runs over large negative numbers give the mean of all values instead, at positions
that nobody reads in a step, but that a caller of a graph over whole rows gets to see. Kept: attention whose mask has one line for each head.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import ABSENT, Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import MASK, POSITIONS
from kexport.graphs.passes.base import Pass, Result
from kexport.runtime.contract.dtypes import numpy_dtype

KEY_AXIS, HEAD_AXIS = 3, 1


class ZeroRowsWithoutKeys(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("attention"):
            mask = node.input(MASK)
            if not mask or graph.type_of(mask).shape[HEAD_AXIS] != 1 or self._is_done(graph, node):
                continue
            self._guard(graph, node, self._with_window(graph, node, mask))
            result.changes += 1

    def _is_done(self, graph: Graph, node: Node) -> bool:
        readers = graph.readers().get(node.output, [])
        return len(readers) == 1 and readers[0].op == "where" and readers[0].input(1) == node.output and readers[0].input(2) in graph.constants

    def _with_window(self, graph: Graph, node: Node, mask: str) -> str:
        """The mask that hides what the window hides, too, in the place of both."""
        if not node.attrs.get("window") or node.attrs.get("slot"):
            return mask
        keys, (rows, sequence) = graph.type_of(mask).shape[KEY_AXIS], graph.type_of(node.input(POSITIONS)).shape

        def add(op: str, *inputs: str, **attrs: object) -> str:
            return graph.add_node(op, inputs, layer=node.layer, before=node, **attrs)  # type: ignore[arg-type]

        position = add("reshape", add("cast", node.input(POSITIONS), dtype="int32"), shape=(rows, 1, sequence, 1))
        distance = add("sub", position, add("range", size=keys, dtype="int32"))
        near = add("lt", distance, graph.add_constant(np.int32(int(attribute(node, "window")))))
        inputs = list(node.inputs)
        inputs[MASK], node.attrs["window"] = add("and", mask, near), None
        inputs[POSITIONS] = inputs[POSITIONS] if node.attrs.get("causal") else ABSENT
        node.inputs = tuple(inputs)
        return inputs[MASK]

    def _guard(self, graph: Graph, node: Node, mask: str) -> None:
        after = graph.nodes[graph.nodes.index(node) + 1] if graph.nodes[-1] is not node else None
        readers = [reader for reader in graph.nodes if node.output in reader.inputs]
        batch, _, sequence, _ = graph.type_of(mask).shape

        def add(op: str, *inputs: str, **attrs: object) -> str:
            return graph.add_node(op, inputs, layer=node.layer, before=after, **attrs)  # type: ignore[arg-type]

        seen = add("cast", add("reduce_max", add("cast", mask, dtype="int32"), axes=(KEY_AXIS,)), dtype="bool")
        zero = graph.add_constant(np.zeros((), numpy_dtype(graph.type_of(node.output).dtype)))
        guarded = add("where", add("reshape", seen, shape=(batch, sequence, 1, 1)), node.output, zero)
        for reader in readers:
            reader.inputs = tuple(guarded if name == node.output else name for name in reader.inputs)
        for output, name in graph.outputs.items():
            if name == node.output:
                graph.outputs[output] = guarded
