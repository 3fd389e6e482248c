"""Whole rows with LiteRT, one row a call, padded behind its end to the shortest length that a signature of the file has. The file is opened a second time.

An id of -1 says where a row ends: the graph lets nothing behind it reach the row (kexport.graphs.passes.end_rows), so that what comes out, cut back to the
caller's length, is what a signature of just that length would give.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import Manifest, Signature, TensorSpec
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.engines.tflite import open_model
from kexport.runtime.forward.base import Array, Forward, first_line, register_forward

_BEHIND = -1  # of ids; masks are false there, anything else is 0
_LENGTHS = ("sequence", "encoder_sequence")  # the dims that the length of a form is put in for


class TfliteForward(Forward):
    """See Forward."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        super().__init__(directory, manifest, options)
        self._models: dict[str, Any] = {}

    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        sizes = _sizes(signature.inputs, feeds)
        form = _Form(self._model(signature.file), signature, sizes)
        rows = [form.run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(sizes[names.BATCH])]
        return {spec.name: _joined([row[spec.name] for row in rows], spec) for spec in signature.outputs}

    def _model(self, file: str) -> Any:
        if file not in self._models:
            self._models[file] = open_model(self.directory / file, self.options)
        return self._models[file]

    def close(self) -> None:
        super().close()
        self._models.clear()


class _Form:
    """The signature of the file that takes rows of the caller's `sizes`, and its buffers for one call after another."""

    def __init__(self, model: Any, signature: Signature, sizes: dict[str, int]) -> None:
        self._model, self._signature = model, signature
        self._own = sizes | {names.BATCH: 1}
        length = _length(signature, max((sizes.get(dim, 0) for dim in _LENGTHS), default=0))
        self._name = names.of_length(signature.name, length) if length else signature.name
        self._fixed = {names.BATCH: 1, **dict.fromkeys(_LENGTHS, length)}
        self._inputs = {spec.name: model.create_input_buffer_by_name(self._name, spec.name) for spec in signature.inputs}
        self._outputs = {spec.name: model.create_output_buffer_by_name(self._name, spec.name) for spec in signature.outputs}

    def run(self, row: dict[str, Array]) -> dict[str, Array]:
        """The outputs for one row, as long as the row."""
        try:
            for spec in self._signature.inputs:
                self._inputs[spec.name].write(_padded(spec.name, row[spec.name], _shape(spec, self._fixed)))
            self._model.run_by_name(self._name, self._inputs, self._outputs)
        except RuntimeError as error:
            raise InternalError("KX556", f"LiteRT failed in `{self._name}`: {first_line(error)}", detail=str(error)) from error
        return {spec.name: self._read(spec) for spec in self._signature.outputs}

    def _read(self, spec: TensorSpec) -> Array:
        shape = _shape(spec, self._fixed)
        array: Array = self._outputs[spec.name].read(int(np.prod(shape)), numpy_dtype(spec.dtype)).reshape(shape)
        return np.ascontiguousarray(array[tuple(slice(size) for size in _shape(spec, self._own))])


def _sizes(specs: tuple[TensorSpec, ...], feeds: dict[str, Array]) -> dict[str, int]:
    """The caller's size of each named dim."""
    return {dim: size for spec in specs for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True) if isinstance(dim, str)}


def _length(signature: Signature, wanted: int) -> int:
    """The length of the form that takes rows of `wanted` tokens; 0 of a signature without lengths."""
    length = min((length for length in signature.sequence_lengths if length >= wanted), default=0)
    if signature.sequence_lengths and not length:
        raise InternalError("KX909", f"there is no signature `{signature.name}` for rows of {wanted} tokens")
    return length


def _shape(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def _padded(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    value = _BEHIND if name.endswith(names.TOKEN_IDS) else 0
    return np.pad(array, [(0, wanted - size) for size, wanted in zip(array.shape, shape, strict=True)], constant_values=value)


def _joined(rows: list[Array], spec: TensorSpec) -> Array:
    return rows[0] if len(rows) == 1 else np.concatenate(rows, spec.shape.index(names.BATCH))


register_forward("tflite")(TfliteForward)
