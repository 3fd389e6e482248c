"""attention: scaled dot product over a cache slot or over given keys and values.

The one place that says what attention means here:

    logits[b,h,t,s] = scale * query[b,t,h] . keys[b,s,h // group]
    logits = softcap * tanh(logits / softcap)                                   if softcap
    logits += slopes[h] * s                                                     if slopes (alibi)
    logits += bias[b|1,h|1,t,s]                                                 if bias
    key s is visible to token t of row b  iff  all of
        s <= positions[b,t]                                                     if causal
        positions[b,t] - s < window                                             if window (the token itself counts)
        key_mask[b,s]                                                           if key_mask
        mask[b|1,h|1,t,s]                                                       if mask
    weights = exp(logits) / (sum over visible s of exp(logits) + exp(sinks[h])) over the visible keys
    output[b,t,h] = sum over s of weights * values[b,s,h // group]

With `slot` and `write`, the new keys and values are first written at `positions` of the row; every row has its own positions, so a
ragged batch has one meaning: pad tokens are written beyond the row's length and overwritten by its next tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import REQUIRED, Array, Arrays, Evaluation, Types, attribute, define, optional, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

INPUTS = ("query", "key?", "value?", "positions?", "bias?", "mask?", "key_mask?", "sinks?", "slopes?")
QUERY, KEY, VALUE, POSITIONS, BIAS, MASK, KEY_MASK, SINKS, SLOPES = range(len(INPUTS))
RANK = 4


def infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    """The output's type. Raises InternalError for what the op does not take."""
    from kexport.graphs.ir import TensorType

    query, key, value = (optional(types, index) for index in (QUERY, KEY, VALUE))
    assert query is not None
    slot_name, write = attribute(node, "slot"), attribute(node, "write")
    slot = graph.slots.get(slot_name) if slot_name else None
    if slot_name and slot is None:
        raise refuse(node, f"there is no cache slot `{slot_name}`")
    if (key is None) != (slot is not None and not write):
        raise refuse(node, "needs keys and values unless it only reads a slot")
    needs_positions = attribute(node, "causal") or attribute(node, "window") or write
    if needs_positions and optional(types, POSITIONS) is None:
        raise refuse(node, "causal, windowed and writing attention needs positions")
    if len(query.shape) != RANK or (key is not None and len(key.shape) != RANK):
        raise refuse(node, f"takes [batch, sequence, heads, head_dim], got {query} and {key}")
    if slot is not None and key is not None and value is not None:
        written = key.shape[2:] + value.shape[2:]
        if written != (slot.num_key_value_heads, slot.head_dim, slot.num_key_value_heads, slot.value_head_dim):
            raise refuse(node, f"keys {key} and values {value} do not fit the slot {slot}")
    heads = int(query.shape[2])
    kv_heads = int(key.shape[2]) if key is not None else slot.num_key_value_heads if slot else heads
    if heads % kv_heads:
        raise refuse(node, f"{heads} heads do not divide into {kv_heads} key-value heads")
    value_dim = value.shape[-1] if value is not None else slot.value_head_dim if slot else 0
    return (TensorType(query.dtype, (*query.shape[:3], value_dim)),)


def keys_and_values(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Array, Array]:
    """The keys and values to attend to, [batch, total, kv_heads, dim], after writing the new ones where the node does."""
    slot = attribute(node, "slot")
    if not slot:
        return arrays[KEY], arrays[VALUE]
    cache = evaluation.caches[slot]
    if attribute(node, "write"):
        rows = np.arange(arrays[POSITIONS].shape[0])[:, None]
        for part, new in zip(cache, (arrays[KEY], arrays[VALUE]), strict=True):
            part[rows, arrays[POSITIONS]] = new
    return cache[0], cache[1]


def visible_keys(node: Node, arrays: Arrays, keys: int) -> Array:
    """bool [batch|1, heads|1, sequence, keys]."""
    visible = np.ones((1, 1, arrays[QUERY].shape[1], keys), bool)
    key_index = np.arange(keys)
    positions, mask, key_mask = (optional(arrays, index) for index in (POSITIONS, MASK, KEY_MASK))
    if attribute(node, "causal"):
        visible = visible & (key_index <= positions[:, None, :, None])
    if attribute(node, "window"):
        visible = visible & (positions[:, None, :, None] - key_index < attribute(node, "window"))
    if key_mask is not None:
        visible = visible & key_mask.astype(bool)[:, None, None, :]
    if mask is not None:
        visible = visible & mask
    return np.asarray(visible)


def logits_of(node: Node, query: Array, keys: Array) -> Array:
    """Scaled and capped dot products [batch, heads, sequence, keys]."""
    keys = np.repeat(keys, query.shape[2] // keys.shape[2], axis=2)
    logits = np.matmul(query.transpose(0, 2, 1, 3), keys.transpose(0, 2, 3, 1)) * query.dtype.type(attribute(node, "scale"))
    softcap = attribute(node, "softcap")
    return np.tanh(logits / query.dtype.type(softcap)) * query.dtype.type(softcap) if softcap else np.asarray(logits)


def biased(arrays: Arrays, logits: Array) -> Array:
    """`logits` with slopes and bias added."""
    slopes, bias = optional(arrays, SLOPES), optional(arrays, BIAS)
    if slopes is not None:
        logits = logits + slopes[None, :, None, None] * np.arange(logits.shape[-1], dtype=logits.dtype)
    return logits if bias is None else logits + bias


def mixed(logits: Array, values: Array, sinks: Array | None, query: Array) -> Array:
    """The weighted sums of `values`, where the logits of hidden keys are -infinity."""
    values = np.repeat(values, query.shape[2] // values.shape[2], axis=2)
    top = logits.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks[None, :, None, None])
    top = np.where(np.isfinite(top), top, 0)  # a row that sees no key (padding) gives zeros, not NaN
    powers = np.exp(logits - top)
    total = powers.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[None, :, None, None] - top)
    weights = powers / np.where(total == 0, 1, total)
    return np.asarray(np.matmul(weights, values.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3).astype(query.dtype))


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    keys, values = keys_and_values(evaluation, node, arrays)
    logits = biased(arrays, logits_of(node, arrays[QUERY], keys))
    logits = np.where(visible_keys(node, arrays, keys.shape[1]), logits, -np.inf)
    return (mixed(logits, values, optional(arrays, SINKS), arrays[QUERY]),)


define(
    "attention",
    "scaled dot-product attention over a cache slot (optionally written first) or over given keys and values; see the module's formula",
    inputs=INPUTS,
    attrs={"scale": REQUIRED, "slot": None, "write": False, "causal": False, "window": None, "softcap": None},
    infer=infer,
    evaluate=_evaluate,
    intrinsic=True,
)
