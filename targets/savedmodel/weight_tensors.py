"""Weights as TensorFlow variables that hold nothing: the functions are traced over them, the numbers go to the files one tensor at a time."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from kexport.graphs.weights import Weight
from kexport.runtime.contract.errors import InternalError
from tensorflow.python.ops import resource_variable_ops


class WeightTensors:
    """The variable of every weight, made at its first use. `module.weights` tracks them by label, which names them in the checkpoint."""

    def __init__(self, stored_dtype: str = "float32") -> None:
        self.stored_dtype = stored_dtype
        self.weights: dict[str, Weight] = {}
        self.variables: dict[str, Any] = {}

    def stored_form(self, weight: Weight) -> Weight:
        """How `weight` is stored: matrices in `stored_dtype`; vectors wide, but with numbers rounded to it."""
        if weight.dtype != "float32" or self.stored_dtype == "float32":
            return weight
        return weight.cast(self.stored_dtype) if len(weight.shape) > 1 else weight.cast(self.stored_dtype).cast("float32")

    def variable(self, weight: Weight) -> Any:
        """The variable of a weight in its stored form."""
        label = weight.label
        if self.weights.setdefault(label, weight) != weight:
            raise InternalError("KX902", f"two different weights are called {label}")
        if label not in self.variables:
            self.variables[label] = self._make(label, weight)
        return self.variables[label]

    def _make(self, label: str, weight: Weight) -> Any:
        with tf.init_scope():
            return resource_variable_ops.UninitializedVariable(
                shape=weight.shape, dtype=tf.as_dtype(weight.dtype), trainable=False, name=f"weight_{len(self.variables)}"
            )
