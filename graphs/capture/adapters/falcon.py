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
from kexport.graphs.capture.alibi import attend_with_alibi
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
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
        products = self.query_dense(inputs), self.key_dense(inputs), self.value_dense(inputs)
        attended, cache = attend_with_alibi(
            trace, self, lambda q, k, v, m: _attend(self, q, k, v, m), products, attention_mask, cache, cache_update_index, _slopes(self)
        )
        output = self.output_dense(attended)
        return output if cache is None else (output, cache)

    patches.replace(FalconAttention, "call", call)
