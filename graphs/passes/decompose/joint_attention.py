"""joint_attention -> two products and one softmax over both, part by part: what the two sets of keys share is the largest logit and the sum.

    top = max(max(a), max(c));    output = (exp(a - top) @ values + exp(c - top) @ cross_values) / (sum(exp(a - top)) + sum(exp(c - top)))
"""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops.attention import QUERY
from kexport.graphs.ops.joint_attention import CROSS_BIAS, CROSS_KEY, CROSS_MASK, CROSS_VALUE
from kexport.graphs.passes.decompose.attention import (
    HEADS_FIRST,
    KEY_AXIS,
    LOWEST,
    capped,
    dot_products,
    finished,
    keys_and_values,
    visible_keys,
    weighted,
)
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("joint_attention")
def joint_attention(node: Node, emit: Emit) -> str:
    """See the module, and kexport.graphs.ops.joint_attention for the formula."""
    keys, values = keys_and_values(emit)
    cross_keys, cross_values = _cross(emit)
    logits = finished(emit, dot_products(emit, keys))
    cross = capped(emit, dot_products(emit, cross_keys))
    if bias := emit.input(CROSS_BIAS):
        cross = emit("add", cross, emit.cast(bias, emit.type_of(cross).dtype))
    parts = [(logits, visible_keys(emit, logits), values), (cross, emit.input(CROSS_MASK), cross_values)]
    shown = [emit("where", visible, part, emit.number(LOWEST[emit.type_of(part).dtype], part)) if visible else part for part, visible, _ in parts]
    top = emit("max", *(emit("reduce_max", part, axes=(KEY_AXIS,), keepdims=True) for part in shown))
    powers = [emit("exp", emit("sub", part, top)) for part in shown]
    powers = [emit("where", visible, power, emit.number(0, power)) if visible else power for power, (_, visible, _) in zip(powers, parts, strict=True)]
    total = emit("add", *(emit("reduce_sum", power, axes=(KEY_AXIS,), keepdims=True) for power in powers))
    nothing = emit("eq", total, emit.number(0, total))  # a row that sees no key gives zeros
    mixed = emit("add", *(weighted(emit, power, part[2]) for power, part in zip(powers, parts, strict=True)))
    return emit("transpose", emit("div", mixed, emit("where", nothing, emit.number(1, total), total)), permutation=HEADS_FIRST)


def _cross(emit: Emit) -> tuple[str, str]:
    """The encoder's keys and values, in the query's dtype."""
    slot, dtype = emit.attr("cross_slot"), emit.type_of(emit.input(QUERY)).dtype
    parts = [emit("cache_read", slot=slot, part=part) for part in range(2)] if slot else [emit.input(CROSS_KEY), emit.input(CROSS_VALUE)]
    return emit.cast(parts[0], dtype), emit.cast(parts[1], dtype)
