"""A live Keras object as a WeightSource: its own variables, read one at a time, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.names import parameter_name
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from numpy.typing import NDArray


class LiveWeights:
    """Reads variables by name.

    Raises:
        UnsupportedError: two variables share a path, so that a name would not tell them apart.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables: dict[str, keras.Variable] = {}
        for variable in variables:
            name = parameter_name(variable)
            if name in self._variables and self._variables[name] is not variable:
                raise UnsupportedError("KX204", f"two variables are called `{variable.path}`", hint="give the model's layers distinct names")
            self._variables[name] = variable

    def read(self, name: str) -> NDArray[Any]:
        """The variable's numbers: a view of its buffer where TensorFlow allows one."""
        if name not in self._variables:
            raise InternalError("KX912", f"the live model has no variable `{name}`")
        tensor = tf.convert_to_tensor(self._variables[name].value)
        return np.asarray(np.from_dlpack(tensor)) if tensor.dtype != tf.bfloat16 else np.asarray(tensor)
