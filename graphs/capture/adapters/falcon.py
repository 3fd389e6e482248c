"""Falcon: alibi attention, inlined in `FalconAttention.call`.

Stock adds slopes[h] * s to the products and multiplies the sum by the norm factor, so the slopes of the logits are slopes[h] * factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from keras_hub.src.models.falcon.falcon_attention import FalconAttention
from keras_hub.src.models.falcon.falcon_transformer_decoder import FalconTransformerDecoder
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace, is_symbolic


class _Formula:
    """The decoder's own formula of the slopes, which calls itself where the number of heads is no power of two."""

    _get_slopes = FalconTransformerDecoder._get_slopes


def _slopes(layer: FalconAttention) -> Any:
    """float32 [heads], of the logits."""
    return np.asarray(_Formula()._get_slopes(layer.num_heads), np.float32) * np.float32(layer.inv_norm_factor)


def _attend(layer: FalconAttention, query: Any, key: Any, value: Any, mask: Any) -> Any:
    """The middle of the stock `call`; [batch, length, heads, dim] in and out."""
    bias = _slopes(layer)[None, :, None, None] * ops.cast(tf.range(tf.shape(key)[1]), "float32")
    logits = ops.einsum("bqnh,bknh->bnqk", query, key) * layer.inv_norm_factor + bias
    weights = layer.softmax(logits, ops.expand_dims(mask, 1))
    return ops.einsum("bnqk,bknh->bqnh", weights, value)


@interceptor("falcon_attention")
def install(trace: Trace, patches: Patches) -> None:
    stock = FalconAttention.call

    def call(
        self: FalconAttention, inputs: Any, alibi: Any, attention_mask: Any = None, cache: Any = None, cache_update_index: Any = None
    ) -> Any:
        if trace.inside_marker or not is_symbolic(inputs) or attention_mask is None:
            return stock(self, inputs, alibi, attention_mask, cache, cache_update_index)
        query, key, value = self.query_dense(inputs), self.key_dense(inputs), self.value_dense(inputs)
        if cache is not None:
            start = [0, cache_update_index, 0, 0]
            key = ops.slice_update(cache[:, 0, ...], start, key)
            value = ops.slice_update(cache[:, 1, ...], start, value)
            cache = ops.stack((key, value), axis=1)
        facts = AttentionFacts(scale=float(self.inv_norm_factor), softcap=None, window=None, sinks=None)
        attended = mark_attention(
            trace,
            lambda q, k, v, m: _attend(self, q, k, v, m),
            query,
            key,
            value,
            attention_mask,
            facts,
            layer=self.path,
            slopes=_slopes(self),
        )
        batch, length, heads, head_dim = ops.shape(attended)
        output = self.output_dense(ops.reshape(attended, [batch, length, heads * head_dim]))
        return output if cache is None else (output, cache)

    patches.replace(FalconAttention, "call", call)
