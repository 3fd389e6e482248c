"""rope for adapters: a part of each head turned by given frequencies at given positions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from kexport.graphs.capture.trace import Trace
from numpy.typing import NDArray


def rotated(trace: Trace, x: tf.Tensor, positions: tf.Tensor, frequencies: NDArray[Any], factor: float, *, layer: str) -> tf.Tensor:
    """x [batch, sequence, heads, dim], of which the first 2 * len(frequencies) numbers of each head are turned; see graphs/ops/rope.py."""

    def body(inner: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        half = len(frequencies)
        angles = tf.cast(where, tf.float32)[:, :, None, None] * tf.constant(frequencies, tf.float32)
        cos, sin = (tf.cast(function(angles) * factor, inner.dtype) for function in (tf.cos, tf.sin))
        first, second, rest = inner[..., :half], inner[..., half : 2 * half], inner[..., 2 * half :]
        return tf.concat([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)

    return trace.mark("rope", body, [x, positions], inputs=[x, positions, frequencies], layer=layer, factor=factor)
