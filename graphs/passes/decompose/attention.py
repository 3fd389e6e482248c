"""attention -> cache_write or cache_read where it has a slot, two matmuls and a softmax.

Query heads of one key-value head are laid below each other, so that keys and values are never repeated:

    [batch, sequence, heads, dim] -> [batch, kv_heads, group * sequence, dim] @ [batch, kv_heads, dim, keys]
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import product
from kexport.graphs.ir import Node
from kexport.graphs.ops.attention import BIAS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.graphs.passes.decompose.registry import Emit, decomposes

HEADS_FIRST = (0, 2, 1, 3)
KEYS_LAST = (0, 2, 3, 1)
KEY_AXIS = 3
# The most negative number of a dtype stands for "not visible"; bfloat16 has nearly the range of float32.
LOWEST = {"float16": -65504.0, "bfloat16": -3e38, "float32": float(np.finfo(np.float32).min), "float64": float(np.finfo(np.float64).min)}


@decomposes("attention")
def attention(node: Node, emit: Emit) -> str:
    """See the module, and kexport.graphs.ops.attention for the formula."""
    keys, values = keys_and_values(emit)
    mixed = weighted(emit, _weights(emit, finished(emit, dot_products(emit, keys))), values)
    return emit("transpose", mixed, permutation=HEADS_FIRST)


def dot_products(emit: Emit, keys: str) -> str:
    """Of the query and keys [batch, total, kv_heads, dim]: [batch, heads, sequence, total]."""
    query = emit.input(QUERY)
    batch, sequence, heads, dim = emit.type_of(query).shape
    _, total, kv_heads, _ = emit.type_of(keys).shape
    rows = product((sequence, int(heads) // int(kv_heads)))
    grouped = emit.reshape(emit("transpose", query, permutation=HEADS_FIRST), batch, kv_heads, rows, dim)
    return emit.reshape(emit("matmul", grouped, emit("transpose", keys, permutation=KEYS_LAST)), batch, heads, sequence, total)


def weighted(emit: Emit, weights: str, values: str) -> str:
    """The sums of values [batch, total, kv_heads, dim] by weights [batch, heads, sequence, total]: [batch, heads, sequence, dim]."""
    batch, heads, sequence, total = emit.type_of(weights).shape
    _, _, kv_heads, value_dim = emit.type_of(values).shape
    rows = product((sequence, int(heads) // int(kv_heads)))
    mixed = emit("matmul", emit.reshape(weights, batch, kv_heads, rows, total), emit("transpose", values, permutation=HEADS_FIRST))
    return emit.reshape(mixed, batch, heads, sequence, value_dim)


def keys_and_values(emit: Emit) -> tuple[str, str]:
    """[batch, total, kv_heads, dim] each, in the query's dtype."""
    slot, dtype = emit.attr("slot"), emit.type_of(emit.input(QUERY)).dtype
    if not slot:
        return emit.cast(emit.input(KEY), dtype), emit.cast(emit.input(VALUE), dtype)
    if emit.attr("write"):
        positions = emit.input(POSITIONS)
        parts = [emit("cache_write", emit.input(new), positions, slot=slot, part=part) for part, new in enumerate((KEY, VALUE))]
    else:
        parts = [emit("cache_read", slot=slot, part=part) for part in range(2)]
    return emit.cast(parts[0], dtype), emit.cast(parts[1], dtype)


def capped(emit: Emit, products: str) -> str:
    """Dot products scaled and capped."""
    logits = emit("mul", products, emit.number(emit.attr("scale"), products))
    softcap = emit.attr("softcap")
    if not softcap:
        return logits
    cap = emit.number(softcap, logits)
    return emit("mul", emit("tanh", emit("div", logits, cap)), cap)


def finished(emit: Emit, products: str) -> str:
    """Dot products [batch, heads, sequence, keys] scaled, capped and biased."""
    type_, logits = emit.type_of(products), capped(emit, products)
    if slopes := emit.input(SLOPES):
        by_head = emit.reshape(emit.cast(slopes, type_.dtype), 1, type_.shape[1], 1, 1)
        logits = emit("add", logits, emit("mul", by_head, emit("range", size=type_.shape[KEY_AXIS], dtype=type_.dtype)))
    if bias := emit.input(BIAS):
        logits = emit("add", logits, emit.cast(bias, type_.dtype))
    return logits


def visible_keys(emit: Emit, logits: str) -> str:
    """bool, broadcasts to [batch, heads, sequence, keys]; `""` where everything is visible."""
    _, _, sequence, total = emit.type_of(logits).shape
    parts: list[str] = []
    if emit.attr("causal") or emit.attr("window"):
        rows = emit.type_of(emit.input(POSITIONS)).shape[0]
        position = emit.reshape(emit.cast(emit.input(POSITIONS), "int32"), rows, 1, sequence, 1)
        key = emit("range", size=total, dtype="int32")
        if emit.attr("causal"):
            parts.append(emit("le", key, position))
        if emit.attr("window"):
            parts.append(emit("lt", emit("sub", position, key), emit.graph.add_constant(np.int32(emit.attr("window")))))
    if key_mask := emit.input(KEY_MASK):
        parts.append(emit.reshape(emit.cast(key_mask, "bool"), emit.type_of(key_mask).shape[0], 1, 1, total))
    if mask := emit.input(MASK):
        parts.append(mask)
    visible = ""
    for part in parts:
        visible = emit("and", visible, part) if visible else part
    return visible


def _weights(emit: Emit, logits: str) -> str:
    """The share of each key: a softmax over the visible ones, the sinks counted in the sum."""
    visible, sinks = visible_keys(emit, logits), emit.input(SINKS)
    type_ = emit.type_of(logits)
    shown = emit("where", visible, logits, emit.number(LOWEST[type_.dtype], logits)) if visible else logits
    if not sinks and (not visible or _always_sees_a_key(emit)):
        return emit("softmax", shown, axis=KEY_AXIS)
    top = emit("reduce_max", shown, axes=(KEY_AXIS,), keepdims=True)
    by_head = emit.reshape(emit.cast(sinks, type_.dtype), 1, type_.shape[1], 1, 1) if sinks else ""
    if by_head:
        top = emit("max", top, by_head)
    powers = emit("exp", emit("sub", shown, top))
    if visible:
        powers = emit("where", visible, powers, emit.number(0, logits))
    total = emit("reduce_sum", powers, axes=(KEY_AXIS,), keepdims=True)
    if by_head:
        total = emit("add", total, emit("exp", emit("sub", by_head, top)))
    nothing = emit("eq", total, emit.number(0, logits))  # a row that sees no key gives zeros
    return emit("div", powers, emit("where", nothing, emit.number(1, logits), total))


def _always_sees_a_key(emit: Emit) -> bool:
    """A causal token sees key 0 at least, and the one it just wrote."""
    hides_more = emit.input(MASK) or emit.input(KEY_MASK) or (emit.attr("window") and not emit.attr("write"))
    return not hides_more
