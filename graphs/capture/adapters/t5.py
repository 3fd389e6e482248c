"""T5: attention with a relative position bias, inlined in `T5MultiHeadAttention.call`.

The first layer of a stack makes the bias and hands it to the others, the mask folded in. Here both travel apart, and the bias is a table over the
distance of key and query, of which each row takes what its own positions say:

    bias[b,h,t,s] = table[clip(s - positions[b,t], -far, far) + far, h]         table[distance + far] = weights[bucket(distance)]

Buckets come from the stock function, run once: from its largest distance on it knows one bucket only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from keras_hub.src.models.t5.t5_multi_head_attention import T5MultiHeadAttention
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace, is_symbolic
from numpy.typing import NDArray

HEADS_SECOND = (0, 3, 1, 2)
HIDDEN = -1e9  # stock adds this to the logit of a hidden key
TOTAL_AXIS = 2  # of a cache [batch, 2, total, heads, dim]
FACTS = AttentionFacts(scale=1.0, softcap=None, window=None, sinks=None)


def _buckets(layer: T5MultiHeadAttention) -> NDArray[np.int32]:
    """The bucket of each distance from -far to far."""
    far = layer.relative_attention_max_distance
    with tf.init_scope():
        buckets = layer._relative_position_bucket(
            tf.range(-far, far + 1), bidirectional=not layer.is_decoder, num_buckets=layer.relative_attention_buckets, max_distance=far
        )
        return np.asarray(buckets, np.int32)


def _bias(layer: T5MultiHeadAttention, positions: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """[batch or 1, heads, sequence, keys] for queries at `positions` [batch or 1, sequence]."""
    far = layer.relative_attention_max_distance
    table = ops.take(layer.relative_attention_bias, _buckets(layer), axis=0)
    distance = tf.range(keys)[None, None] - positions[:, :, None]
    within = tf.minimum(tf.maximum(distance, -far), far) + far
    return tf.transpose(tf.gather(table, within), HEADS_SECOND)


def _attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: tf.Tensor | None, bias: tf.Tensor | None) -> tf.Tensor:
    """The middle of the stock `call`; [batch, length, heads, dim] in and out."""
    scores = ops.einsum("bqnd,bknd->bnqk", query, key)
    if bias is not None:
        scores += ops.cast(bias, scores.dtype)
    if mask is not None:
        scores += (1.0 - ops.cast(mask[:, None], scores.dtype)) * HIDDEN
    return ops.einsum("bnqk,bknd->bqnd", ops.softmax(scores, axis=-1), value)


def _source(tensor: tf.Tensor) -> str:
    """The name of what `tensor` is, another name or dtype aside."""
    while tensor.op.type in ("Identity", "Cast"):
        tensor = tensor.op.inputs[0]
    return str(tensor.name)


@interceptor("t5_attention")
def install(trace: Trace, patches: Patches) -> None:
    stock = T5MultiHeadAttention.call
    handed_on: dict[str, tuple[tf.Tensor | None, tf.Tensor | None]] = {}  # what a stack's layers hand on -> the bias, the mask

    def keys_and_values(self: T5MultiHeadAttention, states: Any, cache: Any, start: Any) -> tuple[Any, Any, Any]:
        """Of the layer's cache, of `states`, or of the former with the latter written at `start`; and the cache as stock returns it."""
        if cache is not None and start is None:
            return cache[:, 0, ...], cache[:, 1, ...], cache
        key, value = (_by_head(self, projector(states)) for projector in (self.key_projector, self.value_projector))
        if cache is None:
            return key, value, None
        key, value = (ops.slice_update(cache[:, part, ...], [0, start, 0, 0], new) for part, new in enumerate((key, value)))
        return key, value, ops.stack((key, value), axis=1)

    def call(
        self: T5MultiHeadAttention,
        hidden_states: Any,
        mask: Any = None,
        key_value_states: Any = None,
        position_bias: Any = None,
        cache: Any = None,
        cache_update_index: Any = None,
        training: Any = False,
    ) -> Any:
        if trace.inside_marker or not is_symbolic(hidden_states):
            return stock(self, hidden_states, mask, key_value_states, position_bias, cache, cache_update_index, training)
        query = _by_head(self, self.query_projector(hidden_states))
        states = hidden_states if key_value_states is None else key_value_states
        key, value, cache_after = keys_and_values(self, states, cache, cache_update_index)
        bias = None
        if position_bias is not None:
            bias, mask = handed_on[_source(position_bias)]
        elif self.use_relative_attention_bias:
            start = 0 if cache_update_index is None else cache_update_index
            keys = tf.shape(key)[1] if cache is None else tf.shape(cache)[TOTAL_AXIS]
            position_bias = bias = _bias(self, trace.token_positions(start, tf.shape(query)[1]), keys)
            handed_on[_source(position_bias)] = bias, mask

        def body(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *added: tf.Tensor) -> tf.Tensor:
            return _attend(q, k, v, None if mask is None else added[0], None if bias is None else added[-1])

        attended = mark_attention(trace, body, query, key, value, mask, FACTS, layer=self.path, bias=bias)
        batch, length = tf.shape(attended)[0], tf.shape(attended)[1]
        return self.output_projector(tf.reshape(attended, [batch, length, self.inner_dim])), position_bias, cache_after

    patches.replace(T5MultiHeadAttention, "call", call)


def _by_head(layer: T5MultiHeadAttention, states: tf.Tensor) -> tf.Tensor:
    """[batch, length, heads, dim]; the sizes are those of `states` itself, so that an encoder's keys do not depend on the decoder."""
    return tf.reshape(states, [tf.shape(states)[0], tf.shape(states)[1], layer.num_heads, layer.key_value_dim])
