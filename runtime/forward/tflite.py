"""Whole rows with LiteRT: images, and prompts with images, which are padded to the fixed length of a signature. The file is opened a second time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError, InvalidInputError
from kexport.runtime.contract.manifest import Manifest, Signature
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.engines.tflite import open_model, read_buffer
from kexport.runtime.forward.base import Array, Forward, first_line, register_forward

_TENSORS = {names.TOKEN_IDS: names.TOKENS}  # what this target calls them
_SEQUENCE_AXIS = 1


class TfliteForward(Forward):
    """See Forward. `vision` takes one image a call."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        super().__init__(directory, manifest, options)
        self._model: Any = open_model(directory / self.signature(names.VISION).file, options)
        prefix = f"{names.PREFILL_IMAGES}_"
        found = [signature for signature in manifest.signatures if signature.name.startswith(prefix)]
        self._prefill = {signature.sequence_lengths[0]: signature for signature in found}

    def run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not self._is_open:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        feeds = {_TENSORS.get(key, key): array for key, array in feeds.items()}
        if name == names.VISION:
            results = [self.call(self.signature(name), {names.PIXEL_VALUES: image[None]}) for image in feeds[names.PIXEL_VALUES]]
            return {key: np.concatenate([result[key] for result in results]) for key in results[0]}
        length = feeds[names.TOKENS].shape[_SEQUENCE_AXIS]
        bucket = min((size for size in self._prefill if size >= length), default=0)
        if name != names.PREFILL_IMAGES or not bucket:
            raise InternalError("KX909", f"there is no signature `{name}` of {length} tokens")
        outputs = self.call(self._prefill[bucket], {key: _padded(array, bucket) for key, array in feeds.items()})
        return {key: array[:, :length] for key, array in outputs.items()}

    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        model = self._model
        inputs = {spec.name: model.create_input_buffer_by_name(signature.name, spec.name) for spec in signature.inputs}
        outputs = {spec.name: model.create_output_buffer_by_name(signature.name, spec.name) for spec in signature.outputs}
        try:
            for spec in signature.inputs:
                inputs[spec.name].write(np.ascontiguousarray(feeds[spec.name], numpy_dtype(spec.dtype)))
            model.run_by_name(signature.name, inputs, outputs)
        except RuntimeError as error:
            raise InternalError("KX556", f"LiteRT failed in `{signature.name}`: {first_line(error)}", detail=str(error)) from error
        return {spec.name: read_buffer(outputs[spec.name], spec) for spec in signature.outputs}

    def close(self) -> None:
        super().close()
        self._model = None


def _padded(array: Array, length: int) -> Array:
    """Zeros behind the tokens: no token sees a later one that is not of its own image."""
    missing = length - array.shape[_SEQUENCE_AXIS]
    return np.pad(array, [(0, missing if axis == _SEQUENCE_AXIS else 0) for axis in range(array.ndim)])


register_forward("tflite")(TfliteForward)
