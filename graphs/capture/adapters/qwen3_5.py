"""Qwen3.5: the gated delta net (Yang et al. 2024), whose `call` branches on how many tokens it is given.

Between the layer's own projections stands one form for any number of tokens: a causal convolution as a sum of delays over the convolution state,
then `delta_rule` over the recurrent state. Padding is part of the layer's meaning. KerasHub prefills the whole padded buffer; padded tokens enter
as zeros, whose decay the recurrent state keeps, while the convolution state is that of the last tokens that are none. So the graph is told where a
row's padding starts, and a buffer may be fed in pieces.

Without caches stock's own call runs, but for its convolution, which begins with zeros, and its rule, which becomes `delta_rule_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from keras_hub.src.models.qwen3_5 import qwen3_5_gated_delta_net as stock_module
from keras_hub.src.models.qwen3_5.qwen3_5_gated_delta_net import Qwen3_5GatedDeltaNet
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.token_loop import mark_rows, over_tokens
from kexport.graphs.capture.trace import Trace, is_symbolic
from kexport.graphs.ops.delta_rule import VALUE

LAST_TWO = (0, 2, 1)
CHUNK = 64  # tokens that the parallel form of the recurrence takes at once, as in stock


@semantics("Qwen3_5CausalLM", "Qwen3_5MoeCausalLM", "Qwen3_5Backbone", "Qwen3_5MoeBackbone")
def semantics_of_model(model: Any) -> Semantics:
    """The recurrent state takes the padding of the buffer, and the last token of the shortest prompt twice."""
    return Semantics(schedule="lock_step", prefill="buffer")


@interceptor("gated_delta_net")
def install(trace: Trace, patches: Patches) -> None:
    stock = Qwen3_5GatedDeltaNet.call

    def call(
        self: Qwen3_5GatedDeltaNet, hidden_states: Any, attention_mask: Any = None, cache: Any = None, cache_update_index: Any = None, training: Any = None
    ) -> Any:
        if trace.inside_marker or not is_symbolic(hidden_states):
            return stock(self, hidden_states, attention_mask, cache, cache_update_index, training)
        if cache is None:
            with _over_whole_rows(trace, self):
                return stock(self, hidden_states, attention_mask, training=training)
        convolution, recurrent = cache
        padding = _Padding(trace, kept=self.conv_kernel_size - 1)
        hidden_states = hidden_states * padding.real
        mixed = self.in_proj_qkv(hidden_states)
        convolved = ops.silu(_convolve(trace, self, mixed, padding.past(convolution)))
        trace.keep(convolution, padding.last(mixed, convolution))
        attended, after = _recur(trace, self, convolved, self.in_proj_b(hidden_states), self.in_proj_a(hidden_states), recurrent)
        trace.keep(recurrent, after)
        gate = ops.reshape(self.in_proj_z(hidden_states), (-1, self.head_v_dim))
        gated = self.norm(ops.reshape(attended, (-1, self.head_v_dim))) * ops.silu(gate)
        batch, length = ops.shape(hidden_states)[:2]
        return self.out_proj(ops.reshape(gated, (batch, length, self.value_dim))), cache

    patches.replace(Qwen3_5GatedDeltaNet, "call", call)


@contextmanager
def _over_whole_rows(trace: Trace, layer: Qwen3_5GatedDeltaNet) -> Iterator[None]:
    """Inside, the module's parts that count tokens in Python take any number of them."""

    def convolve(x: Any, weight: Any) -> Any:
        tokens = ops.transpose(x, LAST_TWO)
        past = ops.zeros((ops.shape(tokens)[0], layer.conv_kernel_size - 1, tokens.shape[-1]), tokens.dtype)
        return ops.transpose(_convolve(trace, layer, tokens, past), LAST_TWO)

    def rule(query: Any, key: Any, value: Any, g: Any, beta: Any, **_: Any) -> tuple[tf.Tensor, None]:
        return _mark_rows(trace, layer, (query, key, value, g, beta)), None

    with Patches() as own:
        own.replace(stock_module, "_causal_conv1d", convolve)
        own.replace(stock_module, "_chunk_gated_delta_rule", rule)
        yield


class _Padding:
    """What a call's padded tokens do to a convolution over the `kept` tokens before each.

    `real`: float32 [batch, sequence, 1], 1 for a token, 0 for padding. Rows are chosen by products with matrices of zeros and ones: exact, and
    the same ops whatever the lengths are.
    """

    def __init__(self, trace: Trace, kept: int) -> None:
        assert trace.positions is not None and trace.valid_lengths is not None
        self._kept = kept
        positions, valid = (tf.cast(tensor, tf.float32) for tensor in (trace.positions, trace.valid_lengths))
        self._length = tf.shape(positions)[1]
        self.real = tf.cast(positions < valid[:, None], tf.float32)[:, :, None]
        self._taken = tf.reduce_sum(self.real, axis=1, keepdims=True)
        self._skipped = tf.minimum(tf.maximum(positions[:, 0] - valid, 0.0), float(kept))[:, None, None]

    def past(self, state: tf.Tensor) -> tf.Tensor:
        """The tokens before the call: the state, moved on by the padding that came after it."""
        return tf.matmul(self._chosen(self._kept, self._skipped), state)

    def last(self, x: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """The state after the call: the last tokens that are no padding."""
        from_state, from_call = self._chosen(self._kept, self._taken), self._chosen(self._length, self._taken - self._kept)
        return tf.matmul(from_state, state) + tf.matmul(from_call, x)

    def _chosen(self, size: Any, first: tf.Tensor) -> tf.Tensor:
        """[batch, kept, size]: row i has its 1 at `first` + i, where there is such a place."""
        places, rows = (tf.cast(tf.range(count), tf.float32) for count in (size, self._kept))
        return tf.cast(tf.equal(places[None, None, :], rows[None, :, None] + first), tf.float32)


def _convolve(trace: Trace, layer: Qwen3_5GatedDeltaNet, x: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
    """The depthwise causal convolution of x [batch, sequence, channels]: each token and the ones before it, weighted by channel."""
    kernel = ops.transpose(layer.conv1d_weight, (1, 0))
    result = x * kernel[-1]
    for steps in range(1, layer.conv_kernel_size):
        result += _delay(trace, layer, x, past, steps) * kernel[-1 - steps]
    return result


def _delay(trace: Trace, layer: Qwen3_5GatedDeltaNet, x: tf.Tensor, past: tf.Tensor, steps: int) -> tf.Tensor:
    def body(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        start = int(old.shape[1]) - steps
        return tf.concat([old, new], axis=1)[:, start : start + tf.shape(new)[1]]

    delayed = trace.mark("delay", body, [x, past], layer=layer.path, steps=steps)
    return tf.ensure_shape(delayed, x.shape)


def _recur(
    trace: Trace, layer: Qwen3_5GatedDeltaNet, mixed: tf.Tensor, write: tf.Tensor, decay: tf.Tensor, state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The delta rule over what the convolution gives; [batch, sequence, value heads, value dim], and the state after the call."""
    batch, length = ops.shape(mixed)[:2]

    def heads(start: int, count: int, dim: int) -> Any:
        part = ops.reshape(mixed[..., start : start + count * dim], (batch, length, count, dim))
        return ops.repeat(part, layer.num_v_heads // count, axis=2) if count < layer.num_v_heads else part

    query, key = (heads(place * layer.key_dim, layer.num_k_heads, layer.head_k_dim) for place in range(2))
    value = heads(2 * layer.key_dim, layer.num_v_heads, layer.head_v_dim)
    beta = ops.sigmoid(write)
    log_decay = -ops.exp(layer.A_log) * keras.activations.softplus(decay + layer.dt_bias)
    return _mark_delta_rule(trace, layer, (query, key, value, log_decay, beta, state))


def _mark_delta_rule(trace: Trace, layer: Qwen3_5GatedDeltaNet, tensors: tuple[Any, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    *tokens, state = tensors
    inputs = [*_as_the_op_takes_them(layer, *tokens), state]
    output, after = trace.mark("delta_rule", _one_by_one, list(tensors), inputs=inputs, layer=layer.path, chunk=CHUNK)
    return tf.ensure_shape(output, tensors[VALUE].shape), after


def _mark_rows(trace: Trace, layer: Qwen3_5GatedDeltaNet, tokens: tuple[Any, ...]) -> tf.Tensor:
    inputs, state = _as_the_op_takes_them(layer, *tokens), (layer.num_v_heads, layer.head_k_dim, layer.head_v_dim)
    return tf.ensure_shape(mark_rows(trace, _one_by_one, tokens, inputs, state, layer=layer.path, chunk=CHUNK), tokens[VALUE].shape)


def _as_the_op_takes_them(layer: Qwen3_5GatedDeltaNet, query: Any, key: Any, value: Any, log_decay: Any, beta: Any) -> list[Any]:
    """Stock's rule takes queries and keys as they are; the op takes them normalised, and what a token erases and writes told apart."""
    query, key = (stock_module._l2norm(part) for part in (query, key))
    strength, decay = beta[..., None], log_decay[..., None]
    erase = -strength * ops.exp(decay) * key
    return [query * layer.head_k_dim**-0.5, key, strength * value, decay, erase, key]


def _one_by_one(*tensors: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Stock's rule for one token, over the tokens of the call: stock has none for any number of them."""
    *parts, state = tensors
    value = parts[VALUE]

    def step(token: list[tf.Tensor], before: tf.Tensor) -> Any:
        return stock_module._recurrent_gated_delta_rule(*token, initial_state=before, output_final_state=True)

    return over_tokens(step, parts, state, [value.shape[0], *value.shape[2:]])
