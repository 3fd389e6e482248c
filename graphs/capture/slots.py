"""Which cache slot a tensor shows, read off the traced graph.

KerasHub cuts one stacked cache `[batch, layer, 2, total, heads, dim]` per layer and part, writes with `slice_update`, and stacks the
result again; Gemma 3 passes a pair of tensors for each layer. Following a tensor back through these ops to a cache placeholder gives the slot, for any such layout, without family code.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from kexport.graphs.capture.trace import CacheView, Trace

# Ops between a cache and its use that do not change which slot it is (head repetition included).
TRANSPARENT = frozenset({"Identity", "ExpandDims", "Tile", "Reshape", "BroadcastTo", "Cast", "GatherV2"})
SECOND_AXIS = 1
LENGTH_AND_HEADS_SWAPPED = [0, 2, 1, 3]  # [batch, total, heads, dim] <-> [batch, heads, total, dim]
STACKED_INDICES = 2


def find_cache(trace: Trace, tensor: tf.Tensor) -> CacheView | None:
    """The slot and part `tensor` shows, or None where it does not come from a cache."""
    indices: list[int] = []
    while True:
        op = tensor.op
        if op.type == "Placeholder":
            return _at_placeholder(trace, tensor, indices)
        marker = trace.marker_of(op)
        if marker is not None:
            if marker.op != "cache_write":
                return None
            update = marker.inputs[0]
            return CacheView(str(marker.attrs["slot"]), int(marker.attrs["part"]), update)  # type: ignore[arg-type]
        if op.type == "StridedSlice":
            index = _index_on_second_axis(op)
            if index is None:
                if op.get_attr("shrink_axis_mask"):
                    return None
                tensor = op.inputs[0]
                continue
            source = op.inputs[0]
            if source.op.type == "Pack" and source.op.get_attr("axis") == SECOND_AXIS:
                tensor = source.op.inputs[index]
                continue
            indices.append(index)
            tensor = source
        elif op.type in TRANSPARENT or _is_swap(op):
            tensor = op.inputs[0]
        else:
            return None


def _at_placeholder(trace: Trace, tensor: tf.Tensor, indices: list[int]) -> CacheView | None:
    if not indices and tensor.name in trace.cache_parts:
        return trace.cache_parts[tensor.name]
    stem = trace.caches.get(tensor.name)
    if stem is None or len(indices) != STACKED_INDICES:
        return None
    part, layer = indices
    return CacheView(f"{stem}.{layer}", part, None)


def _is_swap(op: tf.Operation) -> bool:
    """Whether the op exchanges the axes of length and heads, which shows the same slot."""
    return op.type == "Transpose" and np.array_equal(tf.get_static_value(op.inputs[1]), LENGTH_AND_HEADS_SWAPPED)


def _index_on_second_axis(op: tf.Operation) -> int | None:
    """`i` where the op is x[:, i, ...], else None."""
    if not op.get_attr("shrink_axis_mask") & (1 << SECOND_AXIS):
        return None
    begin = tf.get_static_value(op.inputs[1])
    return None if begin is None else int(begin[SECOND_AXIS])
