"""T5Gemma 2: the decoder attends to its own keys and to the encoder's in one softmax; stock joins both, here they stay apart.

Joint keys would be as long as the sum of two lengths, of which one is a cache's. The stock method's joined keys, values and mask are taken apart again.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras_hub.src.models.t5gemma2.t5gemma2_attention import T5Gemma2MergedAttention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.intercept.attention import Method, Parameters, identify
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.slots import TRANSPARENT, find_cache
from kexport.graphs.capture.trace import MarkerInput, Trace, is_symbolic
from kexport.graphs.ops.attention import BIAS, KEY, POSITIONS, QUERY, VALUE
from kexport.graphs.ops.joint_attention import CROSS_BIAS, CROSS_KEY, CROSS_VALUE, INPUTS
from kexport.runtime.contract.errors import UnsupportedError

STOCK = T5Gemma2MergedAttention._compute_attention  # as it is before the generic interceptor wraps it
NAMES = Parameters.of(STOCK)
METHOD = Method(STOCK, NAMES, heads_first=False)


def _apart(tensor: tf.Tensor, layer: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The decoder's part and the encoder's of what stock joined, heads not repeated.

    Raises:
        UnsupportedError: KX202, it was not joined of two.
    """
    while tensor.op.type in TRANSPARENT:
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "ConcatV2" or len(tensor.op.inputs) != len(("decoder", "encoder", "axis")):
        raise UnsupportedError("KX202", f"{layer.path} does not join the keys of decoder and encoder as expected", hint="see `kexport list`")
    return tensor.op.inputs[0], tensor.op.inputs[1]


@interceptor("t5gemma2_attention")
def install(trace: Trace, patches: Patches) -> None:
    def compute_attention(
        self: T5Gemma2MergedAttention, query_states: Any, key_states: Any, value_states: Any, attention_mask: Any, training: Any
    ) -> Any:
        if trace.inside_marker or not is_symbolic(query_states):
            return STOCK(self, query_states, key_states, value_states, attention_mask, training)
        bound = dict(zip(NAMES.signature.parameters, (self, query_states, key_states, value_states, attention_mask, training), strict=True))
        facts = identify(trace, METHOD, self, {name: value for name, value in bound.items() if name != "self"}, NAMES)
        inputs: list[MarkerInput] = [None] * len(INPUTS)
        inputs[QUERY] = query_states
        inputs[BIAS], inputs[CROSS_BIAS] = _apart(attention_mask, self)
        (key, cross_key), (value, cross_value) = _apart(key_states, self), _apart(value_states, self)
        held, held_value, crossed = (find_cache(trace, tensor) for tensor in (key, value, cross_key))
        slot, cross_slot = (None if view is None else view.slot for view in (held, crossed))
        inputs[KEY], inputs[VALUE] = (key, value) if held is None or held_value is None else (held.update, held_value.update)
        inputs[POSITIONS] = None if held is None else trace.positions
        inputs[CROSS_KEY], inputs[CROSS_VALUE] = (cross_key, cross_value) if crossed is None else (None, None)

        def body(query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            return STOCK(self, query, keys, values, mask, training)

        trace.notes.append(f"{self.path}: one softmax over two caches: plain ops on every target")
        return trace.mark(
            "joint_attention",
            body,
            [query_states, key_states, value_states, attention_mask],
            inputs=inputs,
            layer=self.path,
            slot=slot,
            write=held is not None,
            cross_slot=cross_slot,
            scale=facts.scale,
            softcap=facts.softcap,
        )

    patches.replace(T5Gemma2MergedAttention, "_compute_attention", compute_attention)
