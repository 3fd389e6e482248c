"""Compute logits for each row's last token only: the head is the largest product of the graph.

    logits = f(linear(h, head))      ->      logits = f(linear(last_token(h, lengths), head))       f: elementwise ops

Adds the input `lengths` [batch] int32, the number of real tokens of each row in this call (padding on the right).
Refused: no head found behind elementwise ops, or an op behind it whose shape names the sequence.
"""

from __future__ import annotations

from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops.elementwise import BINARY, UNARY
from kexport.graphs.passes.base import Pass, Result, refresh_types

ELEMENTWISE = frozenset({*BINARY, *UNARY, "cast"})
LENGTHS = "lengths"
RANK = 3


class LastPositionLogits(Pass):
    """See the module."""

    def __init__(self, output: str = "logits") -> None:
        self.output = output

    def run(self, graph: Graph, result: Result) -> None:
        head = self._head(graph)
        if head is None:
            result.refusals.append(f"no head found behind `{self.output}`; logits of all positions stay")
            return
        hidden = head.input(0)
        type_ = graph.type_of(hidden)
        if len(type_.shape) != RANK or type_.shape[1] != SEQUENCE:
            return  # already sliced
        lengths = LENGTHS if LENGTHS in graph.inputs else graph.add_input(LENGTHS, "int32", (BATCH,))
        last = graph.add_node("last_token", [hidden, lengths], layer=head.layer, before=head)
        head.inputs = (last, *head.inputs[1:])
        refresh_types(graph)
        result.changes += 1

    def _head(self, graph: Graph) -> Node | None:
        producers = graph.producers()
        value = graph.outputs.get(self.output, "")
        while (node := producers.get(value)) is not None:
            if node.op == "linear":
                return node
            if node.op not in ELEMENTWISE:
                return None
            computed = [name for name in node.inputs if not graph.is_static(name)]
            if len(computed) != 1:
                return None
            value = computed[0]
        return None
