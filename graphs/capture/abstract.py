"""Build a stock KerasHub model without its weights.

    with abstract_weights():
        task = source.build(load_weights=False)

Inside, every variable of `smallest` bytes or more becomes a handle with shape and dtype and no buffer: tracing works as usual, an
eager read raises. Smaller float variables get random stand-ins near 1 (see standins.py). Integer variables, and those created from a
value instead of an initializer, stay real. A 70-billion-parameter model is built and captured in 1.5 GB this way.

A model built here is for capture only: saving it would write stand-ins.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import core
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.standins import stand_in
from kexport.runtime.contract.errors import InternalError
from numpy.typing import NDArray
from tensorflow.python.ops import resource_variable_ops

SMALLEST = 1 << 20
Reader = Callable[["AbstractVariable"], NDArray[Any]]


class AbstractVariable(resource_variable_ops.UninitializedVariable):  # type: ignore[misc]
    """A variable handle without a buffer. TensorFlow's own gives an empty array when read eagerly; this one raises, or streams."""

    reader: Reader | None = None  # set by `streaming` only

    def _bytes(self) -> NDArray[Any]:
        if AbstractVariable.reader is None:
            raise InternalError("KX911", f"the bytes of weight {self.name} {tuple(self.shape)} were asked for while capturing; capture reads none")
        return AbstractVariable.reader(self)

    def _read_variable_op(self, *args: Any, **kwargs: Any) -> Any:
        return tf.constant(self._bytes()) if tf.executing_eagerly() else super()._read_variable_op(*args, **kwargs)

    def read_value(self) -> Any:
        return self._read_variable_op()

    def numpy(self) -> Any:
        return self._bytes()

    def sparse_read(self, indices: Any, name: str | None = None) -> Any:
        return tf.constant(self._bytes()[np.asarray(indices)]) if tf.executing_eagerly() else super().sparse_read(indices, name)

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        raise InternalError("KX911", f"weight {self.name} has no buffer to assign to; record its loader instead")

    def __repr__(self) -> str:
        return f"<AbstractVariable {self.name} {tuple(self.shape)} {self.dtype.name}>"


def is_abstract(variable: keras.Variable) -> bool:
    """Whether the variable is a handle without a buffer."""
    return isinstance(variable._value, AbstractVariable)


@contextlib.contextmanager
def abstract_weights(*, smallest: int = SMALLEST, smallest_matrix: int | None = None, seed: int = 0) -> Iterator[None]:
    """See the module. `smallest_matrix` is the bound for rank 2 and more (tests set 0: then every matrix is abstract).

    `seed` chooses the stand-ins: a capture must not depend on it.
    """
    bound_of_matrix = smallest if smallest_matrix is None else smallest_matrix
    with Patches() as patches:
        stock = core.Variable._initialize_with_initializer

        def initialize(self: Any, initializer: Any) -> None:
            shape = tuple(int(size) for size in self._shape)
            size = math.prod(shape) * tf.as_dtype(self._dtype).size
            self._kexport_initializer = initializer  # the value of a variable that no checkpoint holds
            if size >= (bound_of_matrix if len(shape) > 1 else smallest):
                self._value = AbstractVariable(shape=shape, dtype=self._dtype, trainable=self.trainable, name=self.name)
            elif keras.backend.is_float_dtype(self._dtype):
                number = tf.cast(stand_in(self.path, shape, seed), self._dtype)
                self._value = tf.Variable(number, trainable=self.trainable, name=self.name)
            else:
                stock(self, initializer)

        patches.replace(core.Variable, "_initialize_with_initializer", initialize)
        yield


@contextlib.contextmanager
def streaming(variables: list[keras.Variable], read: Callable[[keras.Variable], NDArray[Any]]) -> Iterator[None]:
    """Run the stock model eagerly with its weights streamed: inside, each read of an abstract variable gets its bytes from `read`
    and drops them after the op; stand-ins are overwritten with the real numbers first.

    The model becomes the reference for checkpoints larger than memory: the peak is about three times the largest tensor.
    """
    by_handle: dict[int, keras.Variable] = {}
    for variable in variables:
        if is_abstract(variable):
            by_handle[id(variable._value)] = variable
        elif keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype)):
            variable._value.assign(np.array(read(variable)))
    AbstractVariable.reader = lambda handle: read(by_handle[id(handle)])
    try:
        yield
    finally:
        AbstractVariable.reader = None
