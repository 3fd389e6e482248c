"""slice_update on a cache -> cache_write. The write position is the trace's positions, so rows may have their own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import core
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.slots import find_cache
from kexport.graphs.capture.trace import Trace, is_symbolic


@interceptor("cache_write")
def install(trace: Trace, patches: Patches) -> None:
    stock = core.slice_update

    def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Any:
        view = find_cache(trace, inputs) if is_symbolic(inputs) and not trace.inside_marker else None
        if view is None:
            return stock(inputs, start_indices, updates)
        axis = next((i for i, start in enumerate(start_indices) if tf.is_tensor(start)), 1)
        update = tf.cast(updates, inputs.dtype)

        def body(cache: tf.Tensor, index: tf.Tensor, new: tf.Tensor) -> Any:
            starts: list[Any] = [0] * len(cache.shape)
            starts[axis] = index
            return stock(cache, starts, new)

        positions = trace.token_positions(start_indices[axis], tf.shape(update)[axis])
        return trace.mark(
            "cache_write",
            body,
            [inputs, tf.cast(start_indices[axis], tf.int32), update],
            inputs=[update, positions],
            slot=view.slot,
            part=view.part,
        )

    patches.replace(core, "slice_update", slice_update)
