"""Run a stock loader and record what it would assign, without reading a byte.

    with recording() as recorded:
        source.load_weights_into(task)         # KerasHub's own loader, converters and shards included
    weights = recorded.source(task.variables)  # a WeightSource

Patched while recording: HDF5 stores and safetensors loaders hand out lazy arrays, `Variable.assign` notes them. So every rule of
Keras and KerasHub about paths, shards and layouts stays theirs.
"""

from __future__ import annotations

import contextlib
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras.src.backend.tensorflow import core
from keras.src.initializers.random_initializers import RandomInitializer
from keras.src.saving import saving_lib
from kexport.graphs.capture.lazy_array import LazyArray
from kexport.graphs.capture.mapped_files import lazy_dataset, lazy_safetensor, safetensors_header, stored_member
from kexport.graphs.capture.names import ParameterNames
from kexport.graphs.capture.patching import Patches
from kexport.runtime.contract.errors import InvalidInputError
from numpy.typing import NDArray

LARGEST_KEPT = 1 << 20  # larger arrays that a loader computes itself go to a temporary file


def _numpy_dtype(variable: keras.Variable) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if variable._dtype == "bfloat16" else variable._dtype)
    return dtype


class Recorded:
    """What was assigned: variable -> lazy array, in the variable's dtype."""

    def __init__(self) -> None:
        self._arrays: dict[int, LazyArray] = {}

    def assign(self, variable: keras.Variable, value: Any) -> None:
        """Note one assignment.

        Raises:
            InvalidInputError: the shape is not the variable's.
        """
        lazy = value if isinstance(value, LazyArray) else self._kept(variable, np.asarray(value))
        if lazy.shape != tuple(variable.shape):
            raise InvalidInputError(
                "KX423",
                f"{lazy.origin} has shape {lazy.shape}, the model's `{variable.path}` has {tuple(variable.shape)}",
                hint="the weights belong to another config",
            )
        self._arrays[id(variable)] = lazy.astype(_numpy_dtype(variable))

    def _kept(self, variable: keras.Variable, array: NDArray[Any]) -> LazyArray:
        """Numbers that a loader computed itself: small ones in memory, large ones in a temporary file."""
        if array.nbytes <= LARGEST_KEPT:
            held = np.array(array)
            return LazyArray(held.shape, held.dtype, lambda: held, variable.path)
        file = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the array lives; it has no name: nothing is left behind however the process ends
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        dtype, shape = array.dtype, array.shape
        return LazyArray(shape, dtype, lambda: np.memmap(file, dtype, "c", 0, shape), variable.path)

    def source(self, variables: Sequence[keras.Variable]) -> RecordedWeights:
        """All float variables by name. What no checkpoint holds gets the value of its stock initializer, where that is not random."""
        arrays: dict[str, LazyArray] = {}
        unknown: dict[str, str] = {}
        names = ParameterNames(variables)
        for variable in variables:
            if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype)):
                continue
            lazy = self._arrays.get(id(variable))
            if lazy is None:
                lazy = _from_initializer(variable)
            if lazy is None:
                unknown[names.of(variable)] = variable.path
            else:
                arrays[names.of(variable)] = lazy
        return RecordedWeights(arrays, unknown)


def _from_initializer(variable: keras.Variable) -> LazyArray | None:
    initializer = getattr(variable, "_kexport_initializer", None)
    if initializer is None or isinstance(initializer, RandomInitializer):
        return None
    shape, dtype = tuple(variable.shape), variable._dtype
    first, second = (np.asarray(initializer(shape, dtype=dtype)) for _ in range(2))
    if first.tobytes() != second.tobytes():
        return None
    return LazyArray(shape, first.dtype, lambda: first, f"initializer of {variable.path}")


class RecordedWeights:
    """A WeightSource over recorded assignments."""

    def __init__(self, arrays: dict[str, LazyArray], unknown: dict[str, str]) -> None:
        self._arrays, self._unknown = arrays, unknown

    def read(self, name: str) -> NDArray[Any]:
        """The parameter's bytes, a mapped view where the file allows it.

        Raises:
            InvalidInputError: no file holds it, and its initializer is random.
        """
        if name not in self._arrays:
            path = self._unknown.get(name, name)
            raise InvalidInputError("KX424", f"no weight file holds `{path}`", hint="the preset is incomplete; save it again with save_to_preset()")
        return self._arrays[name].materialize()

    def origin(self, name: str) -> str:
        """The file and tensor a parameter comes from."""
        return self._arrays[name].origin if name in self._arrays else name


@contextlib.contextmanager
def recording() -> Iterator[Recorded]:
    """See the module."""
    recorded = Recorded()
    with Patches() as patches:
        _patch_stores(patches)
        _patch_safetensors(patches)
        patches.replace(core.Variable, "assign", lambda self, value: recorded.assign(self, value))  # noqa: PLW0108  a bound method would get no `self`
        yield recorded


def _patch_stores(patches: Patches) -> None:
    stock = saving_lib.H5IOStore.__getitem__

    def getitem(self: Any, key: str) -> Any:
        dataset = saving_lib.safe_get_h5_dataset(self._h5_entry_group, key)  # Keras' own checks (links, sizes) stay in force
        if self.archive is None:
            return lazy_dataset(dataset, str(dataset.file.filename))
        place = stored_member(str(self.archive.filename), str(self.path_or_io))
        return stock(self, key) if place is None else lazy_dataset(dataset, str(self.archive.filename), *place)

    patches.replace(saving_lib.H5IOStore, "__getitem__", getitem)


def _patch_safetensors(patches: Patches) -> None:
    from keras_hub.src.utils.preset_utils import get_file
    from keras_hub.src.utils.transformers.safetensor_utils import SAFETENSOR_FILE, SafetensorLoader

    headers: dict[str, tuple[dict[str, Any], int]] = {}

    def get_tensor(self: Any, hf_weight_key: str) -> LazyArray:
        name = self.fname or SAFETENSOR_FILE
        if self.safetensor_config is not None:
            names = self.safetensor_config["weight_map"]
            name = names[self.get_prefixed_key(hf_weight_key, names)]
        path = str(get_file(self.preset, name))
        entries, data = headers.setdefault(path, safetensors_header(path)) if path not in headers else headers[path]
        return lazy_safetensor(path, self.get_prefixed_key(hf_weight_key, entries), entries, data)

    def port_weight(self: Any, keras_variable: Any, hf_weight_key: str, hook_fn: Callable[..., Any] | None = None) -> None:
        value = get_tensor(self, hf_weight_key)
        if hook_fn is not None:
            value = _hooked(value, _frozen(hook_fn), list(keras_variable.shape))
        keras_variable.assign(value)

    patches.replace(SafetensorLoader, "get_tensor", get_tensor)
    patches.replace(SafetensorLoader, "port_weight", port_weight)


def _hooked(value: LazyArray, hook: Callable[..., Any], shape: list[int]) -> LazyArray:
    """A converter's hook applied lazily: on the lazy array itself, else as a whole when the bytes are read."""
    result = hook(value, shape)
    return result if isinstance(result, LazyArray) else value.deferred(lambda array: np.asarray(hook(array, shape)))


def _frozen(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a hook with its closure fixed now: one that captured a loop variable would see the last layer's value later."""
    if not isinstance(hook, types.FunctionType) or not hook.__closure__:
        return hook
    cells = tuple(types.CellType(cell.cell_contents) for cell in hook.__closure__)
    return types.FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
