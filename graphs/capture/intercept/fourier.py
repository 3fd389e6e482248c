"""The real part of a Fourier transform over the last two axes of real numbers, with which FNet mixes tokens: products with cosines and sines.

    Re F(x)[t, k] = sum over s, d of x[s, d] cos(2 pi (t s / length + k d / width))
                  = (C x C' - S x S')[t, k]        C[t, s] = cos(2 pi (t s mod length) / length), S alike with sin; C', S' over the width

What t s mod length leaves is found in whole numbers, so that the angles of a long row are as exact as those of a short one. The rows are as long as they
are: a Fourier transform has no padding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import math as backend
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic
from numpy.typing import NDArray

TURN = 2 * math.pi
RANK = 3
PASSED_ON = ("Identity", "Cast")


@interceptor("fourier")
def install(trace: Trace, patches: Patches) -> None:
    stock = backend.fft2

    def fft2(x: Any) -> Any:
        real, imaginary = x
        fits = is_symbolic(real) and real.shape.rank == RANK and real.shape[-1] is not None and real.dtype == tf.float32
        if trace.inside_marker or not fits or not _is_zero(imaginary):
            return stock(x)
        return _real_part(real), stock(x)[1]

    patches.replace(backend, "fft2", fft2)


def _is_zero(tensor: Any) -> bool:
    """Whether the trace says that there are only zeros in it."""
    if not is_symbolic(tensor):
        return False
    while tensor.op.type in PASSED_ON:
        tensor = tensor.op.inputs[0]
    return bool(tensor.op.type == "ZerosLike")


def _real_part(x: tf.Tensor) -> tf.Tensor:
    cosines, sines = (tf.matmul(x, table) for table in _constant_tables(int(x.shape[-1])))
    of_tokens = _tables(tf.shape(x)[1])
    return tf.matmul(of_tokens[0], cosines) - tf.matmul(of_tokens[1], sines)


def _constant_tables(width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    places = np.arange(width, dtype=np.int64)
    angles = (places[:, None] * places % width) * (TURN / width)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _tables(length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The same for a length that is known when the graph runs: float32 [length, length]. A quotient that is off by one leaves a whole turn more."""
    places = tf.range(length)
    products = places[:, None] * places[None]
    whole_turns = tf.cast(tf.cast(products, tf.float32) / tf.cast(length, tf.float32), tf.int32)
    angles = tf.cast(products - whole_turns * length, tf.float32) * (TURN / tf.cast(length, tf.float32))
    return tf.cos(angles), tf.sin(angles)
