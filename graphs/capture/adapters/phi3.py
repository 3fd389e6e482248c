"""Phi-3 with LongRoPE ("su"): a call that ends beyond the pretraining length rotates all of its tokens by the long frequencies, another one by the
short ones.

KerasHub prefills the whole padded buffer in one call, so which frequencies the prompt's keys are rotated by depends on how long the buffer is; each
later token is a call of its own. `extent` tells where the call ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras_hub.src.layers.modeling.rotary_embedding import RotaryEmbedding
from keras_hub.src.models.phi3.phi3_rotary_embedding import Phi3SuScaledRotaryEmbedding
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.rotation import rotated
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.trace import Trace, eager_numpy, is_symbolic
from numpy.typing import NDArray

STOCK = RotaryEmbedding.call


@semantics("Phi3CausalLM")
def of_phi3(task: Any) -> Semantics:
    return Semantics(prefill="buffer" if task.backbone.rope_scaling_type == "su" else "prompt")


@interceptor("phi3_rotary")
def install(trace: Trace, patches: Patches) -> None:
    def call(self: Phi3SuScaledRotaryEmbedding, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        if trace.inside_marker or not is_symbolic(inputs) or trace.extent is None or start_index is not trace.start_index:
            return STOCK(self, inputs, start_index=start_index, positions=positions)
        long, short = (
            rotated(trace, inputs, trace.positions, _frequencies(self, int(inputs.shape[-1]), factors), self.embedding_scaling_factor, layer=self.path)
            for factors in (self.inverese_freq_long_factor, self.inverese_freq_short_factor)
        )
        return tf.where((trace.extent > self.pretraining_sequence_length)[:, :, None, None], long, short)

    patches.replace(Phi3SuScaledRotaryEmbedding, "call", call)


def _frequencies(layer: Phi3SuScaledRotaryEmbedding, dim: int, factors: list[float]) -> NDArray[np.float32]:
    """float32 [dim / 2], in the layer's own arithmetic."""
    with tf.init_scope():
        frequencies: NDArray[np.float32] = np.divide(eager_numpy(layer._get_inverse_freq(dim)), factors, dtype=np.float32)
    return frequencies
