"""DeBERTa v3: attention whose logits also hold products of content and relative position, both ways. They become a bias.

Stock takes them out of products with every bucket by a gather in batches; here rows are laid out flat, so that one table of places serves all heads:

    of content to position    flat[b,h, t * buckets + bucket(t - s)],     of position to content    flat[b,h, s * buckets + bucket'(s - t)]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from keras_hub.src.models.deberta_v3.disentangled_self_attention import DisentangledSelfAttention
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace, is_symbolic

STOCK = DisentangledSelfAttention._compute_attention  # as it is before the generic interceptor wraps it
FLAT_AXIS = 2


def _place(layer: DisentangledSelfAttention, distance: tf.Tensor, sign: int) -> tf.Tensor:
    """The row of the relative embeddings for each distance. The stock formula is run once for all distances that differ to it."""
    far, span = 2 * layer.max_position_embeddings, layer.bucket_size
    with tf.init_scope():
        buckets = np.asarray(layer._make_log_bucket_position(tf.range(-far, far + 1)), np.int32)
    table = np.clip(sign * buckets + span, 0, 2 * span - 1).astype(np.int32)
    return tf.gather(tf.constant(table), tf.minimum(tf.maximum(distance, -far), far) + far)


def _taken(products: tf.Tensor, places: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """[batch, heads, rows, columns]: of products [batch, heads, rows, buckets] those at places [rows, columns]."""
    batch, heads, buckets = tf.shape(products)[0], products.shape[1], products.shape[3]
    flat = tf.reshape(products, [batch, heads, length * buckets])
    return tf.gather(flat, tf.range(length)[:, None] * buckets + places, axis=FLAT_AXIS)


def _bias(layer: DisentangledSelfAttention, query: tf.Tensor, key: tf.Tensor, rel_embeddings: tf.Tensor) -> tf.Tensor:
    """What stock adds to the scaled products of queries and keys: [batch, heads, sequence, keys]."""
    length = tf.shape(query)[1]
    distance = tf.range(length)[:, None] - tf.range(length)[None]
    pos_query, pos_key = layer._query_dense(rel_embeddings), layer._key_dense(rel_embeddings)
    content = _taken(ops.einsum("aecd,abcd->acbe", pos_key, query), _place(layer, distance, 1), length)
    position = _taken(ops.einsum("aecd,abcd->acbe", pos_query, key), _place(layer, distance, -1), length)
    return (content + tf.transpose(position, [0, 1, 3, 2])) * layer.scale_factor


@interceptor("deberta_v3_attention")
def install(trace: Trace, patches: Patches) -> None:
    def compute_attention(
        self: DisentangledSelfAttention, query: Any, key: Any, value: Any, rel_embeddings: Any, attention_mask: Any = None, training: Any = None
    ) -> Any:
        if trace.inside_marker or not is_symbolic(query):
            return STOCK(self, query, key, value, rel_embeddings, attention_mask, training)
        bias = _bias(self, query, key, rel_embeddings)

        def body(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *added: tf.Tensor) -> tf.Tensor:
            scores = ops.einsum("aecd,abcd->acbe", k, q) * self.scale_factor + added[-1]
            return ops.einsum("acbe,aecd->abcd", self._masked_softmax(scores, None if attention_mask is None else added[0]), v)

        facts = AttentionFacts(scale=float(self.scale_factor), softcap=None, window=None, sinks=None)
        return mark_attention(trace, body, query, key, value, attention_mask, facts, layer=self.path, bias=bias), None

    patches.replace(DisentangledSelfAttention, "_compute_attention", compute_attention)
