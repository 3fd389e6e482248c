"""The backend's dot_product_attention, whose formula is its documentation -> attention.

Its mask puts one number in the place of a hidden key's logit. Where all keys of a token are hidden, all then weigh the same: a mask that tells tokens
apart is a bias of that number here, which gives the same; a mask of keys alone stays a mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import nn
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace, is_symbolic

TOKEN_AXIS = 2
HIDDEN = -0.7 * float(np.finfo(np.float32).max)  # as the backend has it: no logit changes a bit of it


@interceptor("dot_product_attention")
def install(trace: Trace, patches: Patches) -> None:
    stock = nn.dot_product_attention

    def dot_product_attention(
        query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: Any = None, is_causal: bool = False, **options: Any
    ) -> Any:
        supported = is_symbolic(query) and query.shape[-1] is not None and not is_causal and not any(options.values())
        if trace.inside_marker or not supported:
            return stock(query, key, value, bias=bias, mask=mask, scale=scale, is_causal=is_causal, **options)
        if mask is not None and mask.shape[TOKEN_AXIS] != 1:
            hidden = tf.where(mask, tf.constant(0, tf.float32), tf.constant(HIDDEN, tf.float32))
            bias, mask = hidden if bias is None else bias + tf.cast(hidden, bias.dtype), None

        def body(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *added: tf.Tensor) -> tf.Tensor:
            return stock(q, k, v, bias=None if bias is None else added[-1], mask=None if mask is None else added[0], scale=scale)

        facts = AttentionFacts(scale=float(scale if scale is not None else query.shape[-1] ** -0.5), softcap=None, window=None, sinks=None)
        return mark_attention(trace, body, query, key, value, mask, facts, layer=tf.get_current_name_scope(), bias=bias)

    patches.replace(nn, "dot_product_attention", dot_product_attention)
