"""Forms of the backend's matmul and take that trace to one op instead of nine.

    matmul(x [.., k], w [k, n])      one Einsum (Keras expands it to a Tensordot of nine ops)
    take(x, indices, axis=0)         one Gather (Keras wraps negative indices; ids and positions are never negative)
"""

from __future__ import annotations

import string
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import numpy as backend_numpy
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic


@interceptor("matmul")
def install_matmul(trace: Trace, patches: Patches) -> None:
    stock = backend_numpy.matmul

    def matmul(x1: Any, x2: Any) -> Any:
        if trace.inside_marker or not is_symbolic(x1) or len(x2.shape) != 2 or len(x1.shape) <= 2:
            return stock(x1, x2)
        left, right = x1, tf.convert_to_tensor(x2)
        if left.dtype != right.dtype:
            return stock(x1, x2)
        axes = string.ascii_lowercase[: len(left.shape)]
        return tf.einsum(f"{axes},{axes[-1]}z->{axes[:-1]}z", left, right)

    patches.replace(backend_numpy, "matmul", matmul)


@interceptor("take")
def install_take(trace: Trace, patches: Patches) -> None:
    stock = backend_numpy.take

    def take(x: Any, indices: Any, axis: int | None = None) -> Any:
        known = isinstance(x, keras.Variable) or is_symbolic(x)
        if trace.inside_marker or axis != 0 or not known or not is_symbolic(indices):
            return stock(x, indices, axis)
        return tf.gather(tf.convert_to_tensor(x), tf.cast(indices, tf.int32))

    patches.replace(backend_numpy, "take", take)
