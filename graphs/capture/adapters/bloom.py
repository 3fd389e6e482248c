"""Bloom: alibi attention, inlined in `BloomAttention.call`.

Stock adds slopes[h] * (s - total + 1) to the logits; slopes[h] * s differs by a constant per row, which a softmax does not see, and
does not depend on the cache's capacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from keras_hub.src.models.bloom.bloom_attention import BloomAttention
from kexport.graphs.capture.alibi import attend_with_alibi
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic


def _slopes(layer: BloomAttention) -> Any:
    """float32 [heads], computed by the layer's own alibi formula."""
    with tf.init_scope():
        return np.asarray(layer._alibi_layer._get_slopes(layer.num_heads), np.float32)


def _attend(layer: BloomAttention, query: Any, key: Any, value: Any, mask: Any) -> Any:
    """The middle of the stock `call`: logits, alibi, softmax, weighted sum; [batch, length, heads, dim] in and out."""
    query, value, key = ops.transpose(query, [0, 2, 1, 3]), ops.transpose(value, [0, 2, 1, 3]), ops.transpose(key, [0, 2, 3, 1])
    logits = layer._alibi_layer(ops.matmul(query, key) * layer.inv_norm_factor)
    weights = layer._softmax(logits, ops.expand_dims(mask, 1))
    return ops.transpose(ops.matmul(weights, value), [0, 2, 1, 3])


@interceptor("bloom_attention")
def install(trace: Trace, patches: Patches) -> None:
    stock = BloomAttention.call

    def call(self: BloomAttention, hidden_states: Any, attention_mask: Any = None, cache: Any = None, cache_update_index: Any = None) -> Any:
        if trace.inside_marker or not is_symbolic(hidden_states) or attention_mask is None:
            return stock(self, hidden_states, attention_mask, cache, cache_update_index)
        products = self._query_dense(hidden_states), self._key_dense(hidden_states), self._value_dense(hidden_states)
        attended, cache = attend_with_alibi(
            trace, self, lambda q, k, v, m: _attend(self, q, k, v, m), products, attention_mask, cache, cache_update_index, _slopes(self)
        )
        output = self._output_dense(attended)
        return output if cache is None else (output, cache)

    patches.replace(BloomAttention, "call", call)
