"""GPT-NeoX: its cache holds keys as they are before rotation, and all of them are rotated in every call. Here each key is rotated at its own position
before it is written, which gives the same numbers, so that attention can read the cache as it stands.

The query is rotated at its place in the call, not in the row: in a decode step, a call of one token, at 0. So what a token gives depends on whether
KerasHub's prefill or a step of its own computes it, which `extent` tells. The corrected form rotates the query at its position.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops
from keras_hub.src.models.gpt_neo_x.gpt_neo_x_attention import GPTNeoXAttention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.intercept.rotary import probe_rotary
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.rotation import rotated
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.trace import Trace, is_symbolic


@semantics("GPTNeoXCausalLM")
def of_gpt_neo_x(task: Any) -> Semantics:
    return Semantics(prefill="buffer", fix="queries are rotated at their positions in decode steps, too")


@interceptor("gpt_neo_x_rotary")
def install(trace: Trace, patches: Patches) -> None:
    stock = GPTNeoXAttention.call

    def call(
        self: GPTNeoXAttention, hidden_states: Any, attention_mask: Any = None, cache: Any = None, cache_update_index: Any = None, training: Any = None
    ) -> Any:
        frequencies = probe_rotary(self.rotary_embedding_layer, self.rotary_dim)
        if trace.inside_marker or not is_symbolic(hidden_states) or cache is None or frequencies is None or trace.extent is None:
            return stock(self, hidden_states, attention_mask, cache, cache_update_index, training)
        query, key, value = ops.split(self._qkv_dense(hidden_states), 3, axis=-1)
        query = rotated(trace, query, _query_positions(trace), *frequencies, layer=self.path)
        key = rotated(trace, key, trace.positions, *frequencies, layer=self.path)
        start = [0, cache_update_index, 0, 0]
        key = ops.slice_update(cache[:, 0, ...], start, key)
        value = ops.slice_update(cache[:, 1, ...], start, value)
        attended = self._compute_attention(query=query, key=key, value=value, attention_mask=attention_mask, training=training)
        batch, length = ops.shape(attended)[:2]
        return self._output_dense(ops.reshape(attended, [batch, length, self.hidden_dim])), ops.stack((key, value), axis=1)

    patches.replace(GPTNeoXAttention, "call", call)


def _query_positions(trace: Trace) -> tf.Tensor:
    """Where the query stands in the call of the original's that computes it: a call that ends with the token itself is a step of its own."""
    assert trace.extent is not None and trace.positions is not None
    if trace.is_fixed:
        return trace.positions
    return tf.where(trace.extent > trace.positions + 1, trace.positions, 0)
