"""Gemma 3n: each decoder layer merges a padding mask over the call's tokens into a causal mask over the whole cache, which fits only where both are
equally long or one token is decoded. What it hides of a prefill lies after every real token, so that the causal mask says it already.

Over whole rows a token that sees no key (padding, from a window's size on behind the last token) takes the mean of all values: what stock's softmax over
equal numbers gives is what a query of zeros that sees every key gives. The task called as a function multiplies by the embedding table as it was when the
model was built, random numbers that no file holds. Its scores are what Gemma's score() makes of a model: the backbone's output times the table that it has.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops
from keras_hub.src.layers.modeling.transformer_layer_utils import compute_causal_mask
from keras_hub.src.models.gemma3n.gemma3n_attention import Gemma3nTextAttention
from keras_hub.src.models.gemma3n.gemma3n_text_decoder import Gemma3nTextDecoderBlock
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.trace import Trace, is_symbolic

LENGTH_AXIS = 4  # of the whole cache [batch, layers, 2, heads, total, dim]


@semantics("Gemma3nCausalLM")
def of_gemma3n(task: Any) -> Semantics:
    return Semantics(logits=_logits)


def _logits(task: Any, rows: dict[str, Any]) -> Any:
    return task.backbone.language_model.token_embedding(task.backbone(rows), reverse=True)


@interceptor("gemma3n_mask")
def install(trace: Trace, patches: Patches) -> None:
    stock = Gemma3nTextDecoderBlock._compute_attention_mask

    def compute_attention_mask(self: Gemma3nTextDecoderBlock, x: Any, padding_mask: Any, cache: Any, cache_update_index: Any) -> Any:
        if trace.inside_marker or not is_symbolic(x) or cache is None or not trace.caches:
            return stock(self, x, padding_mask, cache, cache_update_index)
        (whole,) = (x.graph.get_tensor_by_name(name) for name in trace.caches)  # asking a written cache for its size would keep the writing in the graph
        batch, length = ops.shape(x)[:2]
        return compute_causal_mask(batch_size=batch, input_length=ops.shape(whole)[LENGTH_AXIS], output_length=length, cache_index=cache_update_index)

    patches.replace(Gemma3nTextDecoderBlock, "_compute_attention_mask", compute_attention_mask)


@interceptor("gemma3n_rows_without_keys")
def install_mean(trace: Trace, patches: Patches) -> None:
    intercepted = Gemma3nTextAttention._compute_attention

    def compute_attention(self: Gemma3nTextAttention, query: Any, key: Any, value: Any, attention_mask: Any, training: bool = False) -> Any:
        if not (trace.inside_marker or trace.caches) and is_symbolic(query):
            visible = tf.cast(attention_mask, tf.bool)
            blind = tf.equal(tf.reduce_max(tf.cast(visible, tf.int32), axis=-1, keepdims=True), 0)
            query = tf.where(blind[:, None], 0.0, query)
            attention_mask = tf.logical_or(visible, blind)
        return intercepted(self, query, key, value, attention_mask, training=training)

    patches.replace(Gemma3nTextAttention, "_compute_attention", compute_attention)
