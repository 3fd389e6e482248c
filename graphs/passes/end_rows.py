"""Lets the one row of a graph end in front of the graph's length: ids of -1 stand behind its end, and what stands there changes nothing in front of it.

    within = 0 <= ids, for each table of ids [1, length]

    1  ids                              ->  max(ids, 0)
    2  attention(...)                   ->  attention(..., key_mask = within); joint attention: both sets of keys
    3  reduce_max(cast(m)), m bool      ->  reduce_max(cast(m and within)), where it goes over the tokens: does any of them hold; reduce_sum alike
    4  dim_size of the length           ->  sum(within)

For targets of fixed shapes, whose rows are padded to the length of a signature. A model's own padding mask is not enough: some let tokens look at padding
(a token from which everything is hidden sees the mean of all), some ask how long the row is. With this pass a row gives at each of its positions, the padding
that its caller gave it included, what it gives without anything behind it.

Refused: ops that mix the tokens of a row in another way, as a mean over the row or a Fourier transform does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from kexport.graphs.dims import ENCODER_SEQUENCE, SEQUENCE, Dim, Shape
from kexport.graphs.ir import ABSENT, Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, KEY_MASK
from kexport.graphs.ops.joint_attention import ATTENTION, CROSS_KEY, CROSS_MASK
from kexport.graphs.passes.base import Pass, Result
from kexport.runtime.contract import names

LENGTHS = (SEQUENCE, ENCODER_SEQUENCE)
BEHIND = -1  # the id behind a row's end
KEYS_OF = {"attention": ((KEY, KEY_MASK),), "joint_attention": ((KEY, KEY_MASK), (CROSS_KEY, CROSS_MASK))}  # and where it is said which count
COUNTS = frozenset({"reduce_max", "reduce_sum"})  # to which what does not hold adds nothing


class EndRows(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        within: dict[Dim, str] = {}
        for name, type_ in graph.inputs.items():
            if name.endswith(names.TOKEN_IDS) and type_.shape[0] == 1 and type_.shape[1] in LENGTHS:
                within[type_.shape[1]] = _end(graph, name)
                result.changes += 1
        counted: set[str] = set(within.values())
        for node in list(graph.nodes):
            for key, mask in KEYS_OF.get(node.op, ()):
                if node.input(key):
                    _hide(graph, node, mask, within.get(graph.type_of(node.input(key)).shape[1]))
            if node.op in COUNTS:
                counted |= _leave_out(graph, node, within)
            elif node.op == "dim_size" and attribute(node, "dim") in within:
                counted |= _count(graph, node, within[attribute(node, "dim")])
        result.refusals += [
            f"`{node.op}`{f' in layer {node.layer}' if node.layer else ''}"
            for node in graph.nodes
            if _touches(graph, node) and node.output not in counted and not _by_token(graph, node)
        ]


def _end(graph: Graph, ids: str) -> str:
    """Rewrite 1. The value that is true on a row's own tokens."""
    readers, first = [node for node in graph.nodes if ids in node.inputs], graph.nodes[0]
    zero = graph.add_constant(np.int32(0))
    within = graph.add_node("le", [zero, ids], before=first)
    known = graph.add_node("max", [ids, zero], before=first)
    for node in readers:
        node.inputs = tuple(known if name == ids else name for name in node.inputs)
    return within


def _hide(graph: Graph, node: Node, mask: int, within: str | None) -> None:
    """Rewrite 2; nothing for keys that are no row's."""
    if within is None:
        return
    inputs = [*node.inputs, *[ABSENT] * (mask + 1 - len(node.inputs))]
    own = inputs[mask]
    shown = within if mask == KEY_MASK else graph.add_node("reshape", [within], before=node, shape=(1, 1, 1, graph.type_of(within).shape[1]))
    inputs[mask] = graph.add_node("and", [own, shown], before=node) if own else shown
    node.inputs = tuple(inputs)


def _leave_out(graph: Graph, node: Node, within: dict[Dim, str]) -> set[str]:
    """Rewrite 3: the node's output where it can be done."""
    cast = graph.producers().get(node.input(0))
    shape = graph.type_of(node.input(0)).shape
    over = [axis % len(shape) for axis in attribute(node, "axes")]
    if cast is None or cast.op != "cast" or graph.type_of(cast.input(0)).dtype != "bool" or len(over) != 1 or shape[over[0]] not in within:
        return set()
    line = tuple(dim if axis == over[0] else 1 for axis, dim in enumerate(shape))
    own = graph.add_node("reshape", [within[shape[over[0]]]], before=node, shape=line)
    holding = graph.add_node("and", [cast.input(0), own], before=node)
    node.inputs = (graph.add_node("cast", [holding], before=node, dtype=graph.type_of(node.input(0)).dtype),)
    return {node.output}


def _count(graph: Graph, node: Node, within: str) -> set[str]:
    """Rewrite 4."""
    number = graph.add_node("cast", [within], before=node, dtype="int32")
    node.op, node.inputs, node.attrs = "reduce_sum", (number,), {"axes": (0, 1), "keepdims": False}
    return {node.output}


# ---- what does not mix tokens


ELEMENTWISE = frozenset({
    "abs", "add", "and", "cast", "cos", "div", "eq", "erf", "exp", "gelu", "le", "log", "lt", "max", "min", "mul", "neg", "not", "or", "pow", "relu",
    "rsqrt", "sigmoid", "silu", "sin", "softplus", "sqrt", "sub", "tanh", "where",
})  # fmt: skip
OTHERWISE = frozenset({*ATTENTION, "broadcast_to", "delay", "delta_rule", "delta_rule_rows", "embedding", "experts", "one_hot", "range", "rope", "transpose"})  # tokens, causally
LAST_AXIS = frozenset({"layer_norm", "linear", "rms_norm", "topk"})
REDUCTIONS = frozenset({"reduce_max", "reduce_mean", "reduce_sum"})


def _long(dim: Dim) -> bool:
    return isinstance(dim, str) and any(part in LENGTHS for part in dim.split("*"))


def _shapes(graph: Graph, node: Node) -> list[Shape]:
    return [graph.type_of(name).shape for name in node.inputs if name]


def _touches(graph: Graph, node: Node) -> bool:
    return node.op == "dim_size" or any(_long(dim) for shape in _shapes(graph, node) for dim in shape)


def _by_token(graph: Graph, node: Node) -> bool:
    """Whether what `node` gives for a token depends on nothing behind it but what attention shows of it."""
    if node.op in ELEMENTWISE | OTHERWISE:
        return True
    return node.op in _RULES and _RULES[node.op](graph, node)


def _last_axis(graph: Graph, node: Node) -> bool:
    return not _long(graph.type_of(node.input(0)).shape[-1])


def _axes(graph: Graph, node: Node) -> bool:
    shape = graph.type_of(node.input(0)).shape
    axes = attribute(node, "axes") if node.op in REDUCTIONS else (attribute(node, "axis"),)
    return not any(_long(shape[axis]) for axis in axes)


def _product(graph: Graph, node: Node) -> bool:
    return not _long(graph.type_of(node.input(0)).shape[-1])


def _first(graph: Graph, node: Node) -> bool:
    """A slice: of another axis, or the first token, which every row has."""
    return _axes(graph, node) or (attribute(node, "start"), attribute(node, "stop")) == (0, 1)


def _picked(graph: Graph, node: Node) -> bool:
    """Rows of an axis by number: where tokens are leading in it, a number is the same place whatever stands behind."""
    numbers = graph.constants.get(node.input(1))
    return _axes(graph, node) or numbers is None or bool((numbers == 0).all())


def _same_order(graph: Graph, node: Node) -> bool:
    """A reshape that leaves tokens in their places: nothing gets in front of them, or moves from behind them."""
    before, after = (_factors(graph.type_of(name).shape) for name in (node.input(0), node.output))
    return before == after


def _factors(shape: Shape) -> list[Dim]:
    """The sizes in order, neighbouring numbers multiplied; in a product with a length the length leads, for no other is let through."""
    found: list[Dim] = []
    for dim in shape:
        parts = str(dim).split("*")
        lengths, number = [part for part in parts if not part.isdigit()], math.prod(int(part) for part in parts if part.isdigit())
        found += lengths
        if number != 1:
            if found and isinstance(found[-1], int):
                found[-1] *= number
            else:
                found.append(number)
    return found


_RULES: dict[str, Callable[[Graph, Node], bool]] = {
    **dict.fromkeys(LAST_AXIS, _last_axis),
    **dict.fromkeys(REDUCTIONS | {"concat", "split", "softmax"}, _axes),
    "matmul": _product,
    "slice": _first,
    "gather": _picked,
    "reshape": _same_order,
}
