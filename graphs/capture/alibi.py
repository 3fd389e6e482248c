"""Alibi attention that a family inlines in its layer's `call`: the parts that its adapters share, around the layer's own products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.trace import Trace


def attend_with_alibi(
    trace: Trace,
    layer: Any,
    body: Callable[..., Any],
    products: tuple[Any, Any, Any],
    mask: Any,
    cache: Any,
    cache_update_index: Any,
    slopes: Any,
) -> tuple[Any, Any]:
    """Write the cache, mark the attention, join the heads: [batch, length, heads * dim], and the cache as stock returns it (None without one).

    Args:
        layer: the attention layer; its `inv_norm_factor` scales the products.
        body: the middle of the stock `call` over query, key, value [batch, length, heads, dim] and mask.
        products: query, key and value of the new tokens.
        cache: [batch, 2, total, heads, dim], or None.
        slopes: float32 [heads], of the logits.
    """
    query, key, value = products
    if cache is not None:
        start = [0, cache_update_index, 0, 0]
        key = ops.slice_update(cache[:, 0, ...], start, key)
        value = ops.slice_update(cache[:, 1, ...], start, value)
        cache = ops.stack((key, value), axis=1)
    facts = AttentionFacts(scale=float(layer.inv_norm_factor), softcap=None, window=None, sinks=None)
    attended = mark_attention(trace, body, query, key, value, mask, facts, layer=layer.path, slopes=slopes)
    batch, length, heads, head_dim = ops.shape(attended)
    return ops.reshape(attended, [batch, length, heads * head_dim]), cache
