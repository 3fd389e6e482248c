"""joint_attention: attention whose softmax runs over a second set of keys, too: those of an encoder, beside the decoder's own.

The formula is attention's over the decoder's keys and the encoder's keys behind them, with one softmax over both; causality, window, bias, masks
and slopes say which of the decoder's keys are visible, `cross_bias` and `cross_mask` [batch|1, heads|1, sequence|1, encoder keys] do so for the
encoder's:

    logits = [attention's logits over keys,  capped(scale * query . cross_keys) + cross_bias]
    output = softmax(logits where visible) . [values, cross_values]

The encoder's keys and values are those of `cross_slot`, or are given. There is no joined tensor: its length would be a sum of two named sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops import attention
from kexport.graphs.ops.spec import REQUIRED, Array, Arrays, Evaluation, Types, attribute, define, optional, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

ATTENTION = ("attention", "joint_attention")  # the ops that attend
INPUTS = (*attention.INPUTS, "cross_key?", "cross_value?", "cross_bias?", "cross_mask?")
CROSS_KEY, CROSS_VALUE, CROSS_BIAS, CROSS_MASK = range(len(attention.INPUTS), len(INPUTS))


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    if (optional(types, CROSS_KEY) is None) != bool(attribute(node, "cross_slot")) or (optional(types, CROSS_KEY) is None) != (optional(types, CROSS_VALUE) is None):
        raise refuse(node, "needs either a cross slot or cross keys and values")
    if attribute(node, "cross_slot") and attribute(node, "cross_slot") not in graph.slots:
        raise refuse(node, f"there is no cache slot `{attribute(node, 'cross_slot')}`")
    if optional(types, attention.SINKS) is not None:
        raise refuse(node, "has no sinks")
    return attention.infer(graph, node, types)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    query = arrays[attention.QUERY]
    keys, values = attention.keys_and_values(evaluation, node, arrays)
    cross_slot = attribute(node, "cross_slot")
    cross_keys, cross_values = evaluation.caches[cross_slot] if cross_slot else (arrays[CROSS_KEY], arrays[CROSS_VALUE])
    logits = attention.logits_of(node, query, keys)
    logits = np.where(attention.visible_keys(node, arrays, keys.shape[1]), attention.biased(arrays, logits), -np.inf)
    cross = _cross_logits(arrays, attention.logits_of(node, query, cross_keys))
    both = np.concatenate([logits, cross], axis=-1)
    return (attention.mixed(both, np.concatenate([values, cross_values], axis=1), None, query),)


def _cross_logits(arrays: Arrays, logits: Array) -> Array:
    bias, mask = optional(arrays, CROSS_BIAS), optional(arrays, CROSS_MASK)
    logits = logits if bias is None else logits + bias
    return logits if mask is None else np.where(mask, logits, -np.inf)


define(
    "joint_attention",
    "attention with one softmax over a decoder's keys (a slot's, written first, or given) and an encoder's (`cross_slot`'s or given)",
    inputs=INPUTS,
    attrs={"scale": REQUIRED, "slot": None, "write": False, "cross_slot": None, "causal": False, "window": None, "softcap": None},
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
