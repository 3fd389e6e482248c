"""XLNet: attention whose logits also hold products with where a key stands relative to its query, and with whether both are of one segment.

Stock multiplies each query with a table of all distances, as long as two sequences, and shifts the products row by row. Here each is taken from where it
stands in its row, and what is added to the products of queries and keys becomes a bias:

    shifted[b,h, t, s] = products[b,h, t, length - t + s]       of which the flat places t * 2 length + length - t + s serve all heads

KerasHub brings the table of distances from [distances, batch, dim] to [batch, distances, dim], and the padding mask from [batch, length] to
[length, batch], by a reshape that exchanges no axes: in a batch of several rows these are mixed. The graph gives what KerasHub gives.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from keras import ops
from keras_hub.src.models.xlnet.relative_attention import TwoStreamRelativeAttention
from keras_hub.src.models.xlnet.xlnet_content_and_query_embedding import ContentAndQueryEmbedding
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace, is_symbolic

BASE = 10000
FLAT_AXIS = 2


@interceptor("xlnet_positions")
def install_positions(trace: Trace, patches: Patches) -> None:
    stock = ContentAndQueryEmbedding.call

    def call(self: ContentAndQueryEmbedding, token_id_input: Any, mlen: Any = None) -> Any:
        if trace.inside_marker or not is_symbolic(token_id_input) or mlen:
            return stock(self, token_id_input, mlen)
        batch, length = tf.shape(token_id_input)[0], tf.shape(token_id_input)[1]
        with tf.init_scope():
            frequencies = (1 / (BASE ** (ops.arange(0, self.hidden_dim, 2.0, dtype="float32") / self.hidden_dim))).numpy()
        distances = tf.cast(length, tf.float32) - tf.cast(tf.range(2 * length), tf.float32)
        table = self.positional_embedding(distances, frequencies, batch)
        return self.word_embed(token_id_input), tf.reshape(table, [batch, 2 * length, self.hidden_dim])

    patches.replace(ContentAndQueryEmbedding, "call", call)


def _shifted(products: tf.Tensor) -> tf.Tensor:
    """[batch, heads, length, 2 length] -> [batch, heads, length, length]."""
    batch, heads, length = tf.shape(products)[0], products.shape[1], tf.shape(products)[2]
    places = tf.range(length)
    flat = tf.reshape(products, [batch, heads, length * 2 * length])
    return tf.gather(flat, places[:, None] * (2 * length) + length - places[:, None] + places[None], axis=FLAT_AXIS)


def _of_segments(query: tf.Tensor, are_others: tf.Tensor, encoding: Any) -> tf.Tensor:
    """Products [batch, heads, length, keys] with the encoding of keys of the own segment, or of another where `are_others` [batch, length, keys]."""
    same, other = tf.split(ops.einsum("bind,snd->bnis", query, encoding), 2, axis=-1)
    return tf.where(are_others[:, None], other, same)


@interceptor("xlnet_attention")
def install_attention(trace: Trace, patches: Patches) -> None:
    stock = TwoStreamRelativeAttention.compute_attention

    def compute_attention(
        self: TwoStreamRelativeAttention,
        query: Any,
        key: Any,
        value: Any,
        position: Any,
        content_attention_bias: Any,
        positional_attention_bias: Any,
        segment_matrix: Any = None,
        segment_encoding: Any = None,
        segment_attention_bias: Any = None,
        attention_mask: Any = None,
    ) -> Any:
        if trace.inside_marker or not is_symbolic(query) or attention_mask is None:
            parts = (segment_matrix, segment_encoding, segment_attention_bias, attention_mask)
            return stock(self, query, key, value, position, content_attention_bias, positional_attention_bias, *parts)
        scale = 1 / math.sqrt(self._key_dim)
        bias = _shifted(ops.einsum("bsnd,btnd->bnts", position, query + positional_attention_bias))
        if segment_matrix is not None:
            bias += _of_segments(query + segment_attention_bias, segment_matrix, segment_encoding)

        def body(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, mask: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
            scores = ops.einsum("bsnd,btnd->bnts", k, q) * scale + added
            return ops.einsum("bnts,bsnd->btnd", self._masked_softmax(scores, mask), v)

        facts = AttentionFacts(scale=scale, softcap=None, window=None, sinks=None)
        return mark_attention(trace, body, query + content_attention_bias, key, value, attention_mask, facts, layer=self.path, bias=bias * scale)

    patches.replace(TwoStreamRelativeAttention, "compute_attention", compute_attention)
