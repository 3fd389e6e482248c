"""Weights stored in fewer bits: every parameter is rounded once, at its source, and the oracle runs over the same rounded numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InvalidInputError
from numpy.typing import NDArray


def rounded(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """`array` rounded to `dtype`, in its own dtype again."""
    with np.errstate(over="ignore"):
        return array.astype(numpy_dtype(dtype)).astype(array.dtype)


class RoundedWeights:
    """A weight source whose numbers are rounded to a stored dtype.

    Raises:
        InvalidInputError: a finite number becomes infinite in the stored dtype.
    """

    def __init__(self, source: WeightSource, dtype: str) -> None:
        self._source, self._dtype = source, dtype

    def read(self, name: str) -> NDArray[Any]:
        """See WeightSource."""
        array = self._source.read(name)
        if array.dtype.kind not in "fV":
            return array
        result = rounded(array, self._dtype)
        if np.isinf(result).any() and not np.isinf(array).any():
            raise InvalidInputError("KX429", f"weight `{name}` does not fit {self._dtype}: it becomes infinite", hint="use --dtype bfloat16 or float32")
        return result


@contextlib.contextmanager
def round_in_place(task: Any, dtype: str) -> Iterator[None]:
    """The task's float variables rounded to `dtype` inside, and as they were after it. Adapters (LoRA) are merged first, as what is stored
    is the rounded sum: inside, they add nothing.
    """
    if dtype == "float32":
        yield
        return
    import keras
    from kexport.graphs.capture.lora import low_rank_updates, without_lora
    from kexport.graphs.capture.names import ParameterNames

    names = ParameterNames(task.variables)
    found = [(v, np.asarray(v.value)) for v in task.variables if keras.backend.is_float_dtype(keras.backend.standardize_dtype(v.dtype))]
    updates = low_rank_updates(task)
    found.sort(key=lambda pair: names.of(pair[0]) not in updates)  # sums are made before their factors are rounded
    try:
        for variable, array in found:
            update = updates.get(names.of(variable))
            variable.assign(rounded(array if update is None else array + update.delta(), dtype))
        with without_lora(task):
            yield
    finally:
        for variable, array in found:
            variable.assign(array)
