"""RWKV-7 (Peng et al. 2025): time mixing, whose recurrence stock unrolls over the tokens of a call, and two token shifts a layer.

The recurrence becomes `delta_rule`: stock's state is the transpose of the op's, its `a` erases and its `b` writes, its decay is exp(-exp(w)) per
channel. A token shift is a `delay` of one over a state of one token. Everything between stays stock code.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras_hub.src.models.rwkv7 import rwkv7_layer as stock_module
from keras_hub.src.models.rwkv7.rwkv7_layer import RWKV7TimeMix, TimeShift
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.token_loop import over_tokens
from kexport.graphs.capture.trace import Trace, is_symbolic

CHUNK = 16  # tokens that the parallel form takes at once; decays per channel make it large
TRANSPOSED = (0, 1, 3, 2)
RULE = "RWKV7_OP_RNN"  # where a layer keeps the recurrence it runs in decoding


@semantics("RWKV7CausalLM", "RWKV7Backbone")
def semantics_of_task(task: Any) -> Semantics:
    """Padding leaves the states as they are, so rows are independent; the prompt's last token begins a buffer of its own. Stock unrolls whole rows
    token by token, and the parallel form takes a chunk."""
    return Semantics(prompt="split", no_forward="its layers go through a row in steps, from state to state")


@interceptor("rwkv7")
def install(trace: Trace, patches: Patches) -> None:
    stock_mix, stock_shift = RWKV7TimeMix.call, TimeShift.call

    def mix(
        self: RWKV7TimeMix, x: Any, v_first: Any = None, padding_mask: Any = None, last_cache_x: Any = None, cache_state: Any = None, **options: Any
    ) -> Any:
        def recur(*tensors: Any, **_: Any) -> Any:
            return _recur(trace, self, tensors, cache_state)

        inputs = {"v_first": v_first, "padding_mask": padding_mask, "last_cache_x": last_cache_x, "cache_state": cache_state}
        if trace.inside_marker or not is_symbolic(x) or cache_state is None:
            return stock_mix(self, x, **inputs, **options)
        with Patches() as own:
            own.replace(self, RULE, recur)
            return stock_mix(self, x, **inputs, **options)

    def shift(self: TimeShift, inputs: Any, cache_x: Any = None) -> Any:
        if trace.inside_marker or not is_symbolic(inputs) or cache_x is None:
            return stock_shift(self, inputs, cache_x)
        trace.keep(cache_x, trace.mark("keep_last", _keep_last, [inputs, cache_x], layer=self.path))
        delayed = trace.mark("delay", lambda new, past: stock_shift(self, new, past), [inputs, cache_x], layer=self.path, steps=1)
        return tf.ensure_shape(delayed, inputs.shape)

    patches.replace(RWKV7TimeMix, "call", mix)
    patches.replace(TimeShift, "call", shift)


def _keep_last(new: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
    return new[:, -past.shape[1] :]


def _recur(trace: Trace, layer: RWKV7TimeMix, tensors: tuple[Any, ...], state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Stock's recurrence of `tensors` (r, w, k, v, a, b) [batch, sequence, heads, dim] as one node; its outputs, and stock's own state."""
    receptance, decay, key, value, erase, write = tensors
    inputs = [receptance, key, value, -tf.exp(decay), erase, write, state]
    output, after = trace.mark("delta_rule", _one_by_one, [*tensors, state], inputs=inputs, layer=layer.path, chunk=CHUNK)
    trace.keep(state, after)
    return tf.ensure_shape(output, value.shape), tf.transpose(after, TRANSPOSED)


def _one_by_one(*tensors: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Stock's recurrence of one token, over the tokens of the call: stock itself counts them in Python."""
    *parts, state = tensors

    def step(token: list[tf.Tensor], before: tf.Tensor) -> Any:
        return stock_module.rnn_generalized_delta_rule(*token, initial_state=before)

    outputs, after = over_tokens(step, parts, tf.transpose(state, TRANSPOSED), [parts[0].shape[0], *parts[0].shape[2:]])
    return outputs, tf.transpose(after, TRANSPOSED)
