"""SmolLM3: its rotary layer returns the cosines and sines of one start index for all rows; they are computed from each row's positions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops
from keras_hub.src.models.smollm3.smollm3_layers import SmolLM3RotaryEmbedding
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic

SEQUENCE_AXIS = 1


@interceptor("smollm3_rotary")
def install(trace: Trace, patches: Patches) -> None:
    stock = SmolLM3RotaryEmbedding.call

    def call(self: SmolLM3RotaryEmbedding, x: Any, start_index: Any = 0) -> Any:
        """Cosines and sines [batch, sequence, head dim], as stock gives them: the product of positions and frequencies, twice side by side."""
        if trace.inside_marker or not is_symbolic(x):
            return stock(self, x, start_index=start_index)
        positions = ops.cast(trace.token_positions(start_index, tf.shape(x)[SEQUENCE_AXIS]), "float32")
        angles = ops.expand_dims(positions, -1) * ops.cast(self.inv_freq, "float32")
        angles = ops.concatenate((angles, angles), axis=-1)
        return tuple(ops.cast(part * self.attention_scaling, x.dtype) for part in (ops.cos(angles), ops.sin(angles)))

    patches.replace(SmolLM3RotaryEmbedding, "call", call)
