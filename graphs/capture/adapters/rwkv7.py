"""RWKV-7 (Peng et al. 2025): time mixing, whose recurrence stock unrolls over the tokens of a call, and two token shifts a layer.

The recurrence becomes `delta_rule`: stock's state is the transpose of the op's, its `a` erases and its `b` writes, its decay is exp(-exp(w)) per
channel. A token shift is a `delay` of one over a state of one token. Everything between stays stock code.

Without caches the recurrence is `delta_rule_rows`, and a row's first token follows zeros.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras_hub.src.models.rwkv7 import rwkv7_layer as stock_module
from keras_hub.src.models.rwkv7.rwkv7_layer import RWKV7TimeMix, TimeShift
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.token_loop import mark_rows, over_tokens
from kexport.graphs.capture.trace import Trace, is_symbolic

CHUNK = 16  # tokens that the parallel form takes at once; decays per channel make it large
TRANSPOSED = (0, 1, 3, 2)
RULE, RULE_OF_ROWS = "RWKV7_OP_RNN", "RWKV7_OP_INFERENCE"  # where a layer keeps the recurrence it runs in decoding, and over whole rows


@semantics("RWKV7CausalLM", "RWKV7Backbone")
def semantics_of_task(task: Any) -> Semantics:
    """Padding leaves the states as they are, so rows are independent; the prompt's last token begins a buffer of its own."""
    return Semantics(prompt="split")


@interceptor("rwkv7")
def install(trace: Trace, patches: Patches) -> None:
    stock_mix, stock_shift = RWKV7TimeMix.call, TimeShift.call

    def mix(
        self: RWKV7TimeMix, x: Any, v_first: Any = None, padding_mask: Any = None, last_cache_x: Any = None, cache_state: Any = None, **options: Any
    ) -> Any:
        def recur(*tensors: Any, **_: Any) -> Any:
            return _recur_over_rows(trace, self, tensors) if cache_state is None else _recur(trace, self, tensors, cache_state)

        inputs = {"v_first": v_first, "padding_mask": padding_mask, "last_cache_x": last_cache_x, "cache_state": cache_state}
        if trace.inside_marker or not is_symbolic(x):
            return stock_mix(self, x, **inputs, **options)
        with Patches() as own:
            own.replace(self, RULE_OF_ROWS if cache_state is None else RULE, recur)
            return stock_mix(self, x, **inputs, **options)

    def shift(self: TimeShift, inputs: Any, cache_x: Any = None) -> Any:
        if trace.inside_marker or not is_symbolic(inputs):
            return stock_shift(self, inputs, cache_x)
        if cache_x is None:
            past = tf.zeros((tf.shape(inputs)[0], 1, inputs.shape[-1]), inputs.dtype)
        else:
            past = cache_x
            trace.keep(cache_x, trace.mark("keep_last", _keep_last, [inputs, cache_x], layer=self.path))
        delayed = trace.mark("delay", lambda new, before: stock_shift(self, new, before), [inputs, past], layer=self.path, steps=1)
        return tf.ensure_shape(delayed, inputs.shape)

    patches.replace(RWKV7TimeMix, "call", mix)
    patches.replace(TimeShift, "call", shift)


def _keep_last(new: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
    return new[:, -past.shape[1] :]


def _recur(trace: Trace, layer: RWKV7TimeMix, tensors: tuple[Any, ...], state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Stock's recurrence of `tensors` (r, w, k, v, a, b) [batch, sequence, heads, dim] as one node; its outputs, and stock's own state."""
    inputs = [*_as_the_op_takes_them(*tensors), state]
    output, after = trace.mark("delta_rule", _one_by_one, [*tensors, state], inputs=inputs, layer=layer.path, chunk=CHUNK)
    trace.keep(state, after)
    return tf.ensure_shape(output, tensors[0].shape), tf.transpose(after, TRANSPOSED)


def _recur_over_rows(trace: Trace, layer: RWKV7TimeMix, tensors: tuple[Any, ...]) -> tuple[tf.Tensor, None]:
    """Stock's recurrence of whole rows from zeros as one node; nobody asks for the state after them."""

    inputs, state = _as_the_op_takes_them(*tensors), (layer.n_head, layer.head_size, layer.head_size)
    return tf.ensure_shape(mark_rows(trace, _one_by_one, tensors, inputs, state, layer=layer.path, chunk=CHUNK), tensors[0].shape), None


def _as_the_op_takes_them(receptance: Any, decay: Any, key: Any, value: Any, erase: Any, write: Any) -> list[Any]:
    return [receptance, key, value, -tf.exp(decay), erase, write]


def _one_by_one(*tensors: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Stock's recurrence of one token, over the tokens of the call: stock itself counts them in Python."""
    *parts, state = tensors

    def step(token: list[tf.Tensor], before: tf.Tensor) -> Any:
        return stock_module.rnn_generalized_delta_rule(*token, initial_state=before)

    outputs, after = over_tokens(step, parts, tf.transpose(state, TRANSPOSED), [parts[0].shape[0], *parts[0].shape[2:]])
    return outputs, tf.transpose(after, TRANSPOSED)
