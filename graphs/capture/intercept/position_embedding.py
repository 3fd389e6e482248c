"""Learned positions: pass the positions instead of slicing the table, so that rows may have their own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras_hub.src.layers.modeling.position_embedding import PositionEmbedding
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic

SEQUENCE_AXIS = 1


@interceptor("position_embedding")
def install(trace: Trace, patches: Patches) -> None:
    stock = PositionEmbedding.call

    def call(self: PositionEmbedding, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        if positions is None and is_symbolic(inputs) and not trace.inside_marker:
            positions = trace.token_positions(start_index, tf.shape(inputs)[SEQUENCE_AXIS])
        return stock(self, inputs, start_index=start_index, positions=positions)

    patches.replace(PositionEmbedding, "call", call)
