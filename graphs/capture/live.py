"""A live Keras object as a WeightSource: its own variables, read one at a time, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.names import ParameterNames
from kexport.runtime.contract.errors import InternalError
from numpy.typing import NDArray


class LiveWeights:
    """Reads variables by name."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        names = ParameterNames(variables)
        self._variables = {names.of(variable): variable for variable in variables}

    def read(self, name: str) -> NDArray[Any]:
        """The variable's numbers: a view of its buffer where TensorFlow allows one."""
        if name not in self._variables:
            raise InternalError("KX912", f"the live model has no variable `{name}`")
        tensor = tf.convert_to_tensor(self._variables[name].value)
        return np.asarray(np.from_dlpack(tensor)) if tensor.dtype != tf.bfloat16 else np.asarray(tensor)
