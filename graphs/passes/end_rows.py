"""Lets the one row of a graph end in front of the graph's length: ids of -1 stand behind its end, and what stands there changes nothing in front of it.

    within = 0 <= ids, for each table of ids [1, length]

    1  ids                              ->  max(ids, 0)
    2  attention(...)                   ->  attention(..., key_mask = within); joint attention: both sets of keys
    3  reduce_max(x), over tokens       ->  reduce_max(where(within, x, lowest)); reduce_sum(x): with 0; reduce_mean(x): that sum / sum(within)
    4  dim_size of the length           ->  sum(within)

For targets of fixed shapes, whose rows are padded to the length of a signature. A model's own padding mask is not enough: some let tokens look at padding
(a token from which everything is hidden sees the mean of all), some ask how long the row is. With this pass a row gives at each of its positions, the padding
that its caller gave it included, what it gives without anything behind it.

Refused: ops that mix the tokens of a row in another way, as a Fourier transform does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE, Dim
from kexport.graphs.ir import ABSENT, Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, KEY_MASK
from kexport.graphs.ops.joint_attention import ATTENTION, CROSS_KEY, CROSS_MASK
from kexport.graphs.passes.base import Pass, Result
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import numpy_dtype

LENGTHS = (SEQUENCE, ENCODER_SEQUENCE)
BEHIND = -1  # the id behind a row's end
KEYS_OF = {"attention": ((KEY, KEY_MASK),), "joint_attention": ((KEY, KEY_MASK), (CROSS_KEY, CROSS_MASK))}  # and where it is said which count
REDUCTIONS = frozenset({"reduce_max", "reduce_mean", "reduce_sum"})


class EndRows(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        within: dict[Dim, str] = {}
        for name, type_ in graph.inputs.items():
            if _has_end(graph, name):
                return
            if name.endswith(names.TOKEN_IDS) and type_.shape[0] == 1 and type_.shape[1] in LENGTHS:
                within[type_.shape[1]] = _end(graph, name)
                result.changes += 1
        counted: set[str] = set(within.values())
        for node in list(graph.nodes):
            for key, mask in KEYS_OF.get(node.op, ()):
                if node.input(key):
                    _hide(graph, node, mask, within.get(graph.type_of(node.input(key)).shape[1]))
            if node.op in REDUCTIONS:
                counted |= _leave_out(graph, node, within)
            elif node.op == "dim_size" and attribute(node, "dim") in within:
                counted |= _count(graph, node, within[attribute(node, "dim")])
        result.refusals += _mixing(graph, LENGTHS, counted)


def rows_mixed(graph: Graph) -> list[str]:
    """The ops of a graph of any batch that mix the rows of a batch, so that a row alone gives something else."""
    return _mixing(graph, (BATCH,))


def _has_end(graph: Graph, ids: str) -> bool:
    readers = graph.readers().get(ids, [])
    return ids.endswith(names.TOKEN_IDS) and {node.op for node in readers} == {"le", "max"}


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
    """Rewrite 3: the outputs of reductions over tokens that are right now."""
    x = node.input(0)
    dtype, shape = graph.type_of(x).dtype, graph.type_of(x).shape
    over = [axis % len(shape) for axis in attribute(node, "axes")]
    if len(over) != 1 or shape[over[0]] not in within or dtype == "bool":
        return set()
    own, kept = within[shape[over[0]]], numpy_dtype(dtype)
    nothing = kept.type(0)
    if node.op == "reduce_max":
        nothing = np.finfo(kept).min if kept.kind == "f" else np.iinfo(kept).min
    line = graph.add_node("reshape", [own], before=node, shape=tuple(dim if axis == over[0] else 1 for axis, dim in enumerate(shape)))
    shown = graph.add_node("where", [line, x, graph.add_constant(np.asarray(nothing, kept))], before=node)
    made = {node.output}
    if node.op == "reduce_mean":
        total = graph.add_node("reduce_sum", [shown], before=node, axes=tuple(over), keepdims=attribute(node, "keepdims"))
        ones = graph.add_node("cast", [own], before=node, dtype=dtype)
        count = graph.add_node("reduce_sum", [ones], before=node, axes=(0, 1), keepdims=False)
        made |= {total, count}
        node.op, node.inputs, node.attrs = "div", (total, count), {}
    else:
        node.inputs = (shown,)
    return made


def _count(graph: Graph, node: Node, within: str) -> set[str]:
    """Rewrite 4."""
    number = graph.add_node("cast", [within], before=node, dtype="int32")
    node.op, node.inputs, node.attrs = "reduce_sum", (number,), {"axes": (0, 1), "keepdims": False}
    return {node.output}


# ---- what mixes


ELEMENTWISE = frozenset({
    "abs", "add", "and", "cast", "cos", "div", "eq", "erf", "exp", "gelu", "le", "log", "lt", "max", "min", "mul", "neg", "not", "or", "pow", "relu",
    "rsqrt", "sigmoid", "silu", "sin", "softplus", "sqrt", "sub", "tanh", "where",
})  # fmt: skip
OTHERWISE = frozenset({  # row by row, and of a row's tokens a later one changes no earlier one but by attention
    *ATTENTION, "broadcast_to", "delay", "delta_rule", "delta_rule_rows", "embedding", "experts", "one_hot", "range", "rope", "transpose",
})  # fmt: skip
LAST_AXIS = frozenset({"layer_norm", "linear", "matmul", "rms_norm", "topk"})

Dims = tuple[str, ...]


def _mixing(graph: Graph, dims: Dims, known: Collection[str] = ()) -> list[str]:
    """The ops that mix what lies along axes of these sizes, but for those whose outputs are `known` to be right; an op that no rule knows is one."""
    return [
        f"`{node.op}`{f' in layer {node.layer}' if node.layer else ''}"
        for node in graph.nodes
        if node.output not in known and node.op not in ELEMENTWISE | OTHERWISE and _touches(graph, node, dims)
        and not (node.op in _RULES and _RULES[node.op](graph, node, dims))
    ]  # fmt: skip


def _is_one_of(dim: Dim, dims: Dims) -> bool:
    return isinstance(dim, str) and any(part in dims for part in dim.split("*"))


def _touches(graph: Graph, node: Node, dims: Dims) -> bool:
    sizes = [attribute(node, "dim")] if node.op == "dim_size" else [dim for name in node.inputs if name for dim in graph.type_of(name).shape]
    return any(_is_one_of(dim, dims) for dim in sizes)


def _last_axis(graph: Graph, node: Node, dims: Dims) -> bool:
    return not _is_one_of(graph.type_of(node.input(0)).shape[-1], dims)


def _axes(graph: Graph, node: Node, dims: Dims) -> bool:
    shape = graph.type_of(node.input(0)).shape
    axes = attribute(node, "axes") if node.op in REDUCTIONS else (attribute(node, "axis"),)
    return not any(_is_one_of(shape[axis], dims) for axis in axes)


def _picked(graph: Graph, node: Node, dims: Dims) -> bool:
    """Parts of an axis by number, which is the same place whatever stands behind; of fixed numbers only the first, which every row has."""
    numbers = graph.constants.get(node.input(1))
    return _axes(graph, node, dims) or (dims == LENGTHS and (numbers is None or bool((numbers == 0).all())))


def _same_order(graph: Graph, node: Node, dims: Dims) -> bool:
    """A reshape that leaves everything in its place: nothing gets in front of it, or moves from behind it."""
    before, after = (_factors(graph.type_of(name).shape) for name in (node.input(0), node.output))
    return before == after


def _factors(shape: tuple[Dim, ...]) -> list[Dim]:
    """The sizes in order, neighbouring numbers multiplied; in a product the named ones lead, for no other is let through."""
    found: list[Dim] = []
    for dim in shape:
        parts = str(dim).split("*")
        named, number = [part for part in parts if not part.isdigit()], math.prod(int(part) for part in parts if part.isdigit())
        found += named
        if number != 1:
            if found and isinstance(found[-1], int):
                found[-1] *= number
            else:
                found.append(number)
    return found


_RULES: dict[str, Callable[[Graph, Node, Dims], bool]] = {
    **dict.fromkeys(LAST_AXIS, _last_axis),
    **dict.fromkeys(REDUCTIONS | {"concat", "slice", "softmax", "split"}, _axes),
    "gather": _picked,
    "reshape": _same_order,
}
