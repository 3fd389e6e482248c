"""A bias that only hides keys is a mask.

    1  bias = (1 - cast(m)) * number, number <= -1e8     ->  mask = m            where m is bool
    2  bias = bias1 + bias2, both of them such masks     ->  mask = m1 and m2
    3  bias = broadcast or reshape of such a mask        ->  mask = the same of m

Stock code adds a large negative number to hidden logits: what is left of their weights is 0 in float32. Kept: every other bias, and without a cache
one that tells tokens apart: a token from which it hides everything gets the mean of all values, which callers of whole rows get to see.
"""

from __future__ import annotations

from kexport.graphs.ir import ABSENT, Graph, Node
from kexport.graphs.ops.attention import BIAS, MASK
from kexport.graphs.ops.joint_attention import CROSS_BIAS, CROSS_MASK
from kexport.graphs.passes.base import Pass, Result

HIDES = -1e8
TOKEN_AXIS = 2
MOVES = frozenset({"broadcast_to", "reshape"})


MASKED = {"attention": ((BIAS, MASK),), "joint_attention": ((BIAS, MASK), (CROSS_BIAS, CROSS_MASK))}


class MasksFromBias(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op(*MASKED):
            for bias, mask in MASKED[node.op]:
                if not node.input(bias) or node.input(mask):
                    continue
                per_token = graph.type_of(node.input(bias)).shape[TOKEN_AXIS] != 1
                if per_token and not node.attrs.get("slot"):
                    continue
                visible = _mask(graph, node.input(bias), graph.producers(), node)
                if visible is None:
                    continue
                inputs = list(node.inputs) + [ABSENT] * (mask + 1 - len(node.inputs))
                inputs[bias], inputs[mask] = ABSENT, visible
                node.inputs = tuple(inputs)
                result.changes += 1


def _mask(graph: Graph, bias: str, producers: dict[str, Node], before: Node) -> str | None:
    """The bool value of the keys that `bias` leaves visible, None where it does something else."""
    node = producers.get(bias)
    if node is None:
        return None
    if node.op in MOVES:
        moved = _mask(graph, node.input(0), producers, before)
        return None if moved is None else graph.add_node(node.op, [moved], layer=node.layer, before=before, shape=node.attrs["shape"])
    if node.op == "add":
        parts = [_mask(graph, name, producers, before) for name in node.inputs]
        return None if None in parts else graph.add_node("and", [part for part in parts if part], layer=node.layer, before=before)
    if node.op != "mul":
        return None
    factors = sorted(node.inputs, key=lambda name: name in graph.constants)
    if _number(graph, factors[1], at_most=HIDES) is None:
        return None
    hidden = producers.get(factors[0])
    if hidden is None or hidden.op != "sub" or _number(graph, hidden.input(0), at_most=1) != 1:
        return None
    cast = producers.get(hidden.input(1))
    return cast.input(0) if cast is not None and cast.op == "cast" and graph.type_of(cast.input(0)).dtype == "bool" else None


def _number(graph: Graph, name: str, *, at_most: float) -> float | None:
    """The one number of a constant, where it is not larger."""
    array = graph.constants.get(name)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.reshape(-1)[0] <= at_most else None
