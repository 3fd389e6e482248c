"""Random numbers in place of weights while a layer is probed.

A probe must tell `w` from `1 + w` and two weights apart, and must neither read nor change a live model's weights: inside
`stand_in_scope` the named variables read as fresh random numbers near 1, and as themselves again after it.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

SPREAD = 0.25


def stand_in(path: str, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    """float32 numbers near 1, fixed by the variable's path and the seed; never all equal."""
    generator = np.random.default_rng([zlib.crc32(path.encode()), seed])
    return (1 + SPREAD * generator.standard_normal(tuple(shape))).astype(np.float32)


@contextlib.contextmanager
def stand_in_scope(variables: Sequence[keras.Variable]) -> Iterator[dict[int, NDArray[Any]]]:
    """Inside, `variables` read as stand-ins; yields id(variable) -> the numbers (rounded to the variable's dtype, as float32)."""
    values = {id(variable): tf.cast(stand_in(variable.path, variable.shape), variable.dtype) for variable in variables}
    mapping = [(variable, values[id(variable)]) for variable in variables]
    with keras.StatelessScope(state_mapping=mapping):
        yield {key: np.asarray(tf.cast(value, tf.float32)) for key, value in values.items()}
