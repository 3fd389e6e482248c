"""slice_update on a cache -> cache_write. The write position is the trace's positions, so rows may have their own.

What is written is [batch, length, heads, dim]; a cache that keeps its heads first is marked, and read on, with these axes exchanged.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import core
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.slots import LENGTH_AND_HEADS_SWAPPED, find_cache
from kexport.graphs.capture.trace import Trace, is_symbolic

LENGTH_AXIS = 1

@interceptor("cache_write")
def install(trace: Trace, patches: Patches) -> None:
    stock = core.slice_update

    def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Any:
        view = find_cache(trace, inputs) if is_symbolic(inputs) and not trace.inside_marker else None
        if view is None:
            return stock(inputs, start_indices, updates)
        axis = next((i for i, start in enumerate(start_indices) if tf.is_tensor(start)), LENGTH_AXIS)

        def length_first(x: tf.Tensor) -> tf.Tensor:
            return x if axis == LENGTH_AXIS else tf.transpose(x, LENGTH_AND_HEADS_SWAPPED)

        def body(cache: tf.Tensor, index: tf.Tensor, new: tf.Tensor) -> Any:
            starts: list[Any] = [0] * len(cache.shape)
            starts[axis] = index
            return length_first(stock(cache, starts, length_first(new)))

        update = length_first(tf.cast(updates, inputs.dtype))
        positions = trace.token_positions(start_indices[axis], tf.shape(update)[LENGTH_AXIS])
        written = trace.mark(
            "cache_write",
            body,
            [inputs, tf.cast(start_indices[axis], tf.int32), update],
            inputs=[update, positions],
            slot=view.slot,
            part=view.part,
        )
        return length_first(written)

    patches.replace(core, "slice_update", slice_update)
