"""Mark one attention: resolve its cache slot, decide who writes it, and bring its mask into one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from kexport.graphs.capture.probe_attention import AttentionFacts
from kexport.graphs.capture.slots import find_cache
from kexport.graphs.capture.trace import MarkerInput, Trace
from kexport.graphs.ops.attention import BIAS, INPUTS, KEY, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from numpy.typing import NDArray

MASK_RANK = 3


def mark_attention(
    trace: Trace,
    body: Callable[..., Any],
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor | None,
    facts: AttentionFacts,
    *,
    layer: str,
    slopes: NDArray[Any] | None = None,
    bias: tf.Tensor | None = None,
) -> tf.Tensor:
    """One attention marker. query, key, value are [batch, length, heads, dim]; the mask is true where a key is visible.

    The first attention over a slot that was just written writes it; later ones (shared caches) read it.
    """
    inputs: list[MarkerInput] = [None] * len(INPUTS)
    inputs[QUERY], inputs[SINKS], inputs[SLOPES], inputs[BIAS] = query, facts.sinks, slopes, bias
    inputs[MASK] = None if mask is None else _boolean_mask(mask)
    keys, values = find_cache(trace, key), find_cache(trace, value)
    slot = keys.slot if keys is not None and values is not None and keys.slot == values.slot else None
    write = False
    if slot is None:
        inputs[KEY], inputs[VALUE] = key, value
        inputs[POSITIONS] = trace.token_positions(0, tf.shape(query)[1]) if facts.window else None
    else:
        assert keys is not None and values is not None
        write = keys.update is not None and slot not in trace.written
        if write:
            inputs[KEY], inputs[VALUE], inputs[POSITIONS] = keys.update, values.update, trace.positions
            trace.written.add(slot)
        elif keys.update is not None:
            inputs[POSITIONS] = trace.positions
    tensors = [query, key, value] + ([mask] if mask is not None else []) + ([bias] if bias is not None else [])
    return trace.mark(
        "attention", body, tensors, inputs=inputs, layer=layer, slot=slot, write=write, scale=facts.scale, softcap=facts.softcap, window=facts.window
    )


def _boolean_mask(mask: tf.Tensor) -> tf.Tensor:
    """bool [batch, 1 or heads, sequence, keys]."""
    visible = tf.cast(mask, tf.bool)
    return visible[:, None] if len(mask.shape) == MASK_RANK else visible
