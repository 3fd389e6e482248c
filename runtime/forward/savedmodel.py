"""Whole rows with TensorFlow: functions of the SavedModel, over the variables that the engine has loaded already if it is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import Manifest, Signature
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.engines.savedmodel import load_functions, set_threads
from kexport.runtime.forward.base import Array, Forward, first_line, register_forward
from kexport.runtime.plain_tensorflow import tf

_DEVICE = "CPU:0"


class SavedModelForward(Forward):
    """See Forward."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        super().__init__(directory, manifest, options)
        set_threads(options.threads)
        self._model: Any = None
        self._functions: dict[str, Any] = {}
        self._model, self._functions = load_functions(directory, manifest)

    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            with tf.device(_DEVICE):
                outputs = self._functions[signature.name](**{name: tf.constant(array) for name, array in feeds.items()})
        except tf.errors.OpError as error:
            raise InternalError("KX556", f"TensorFlow failed in `{signature.name}`: {first_line(error)}", detail=str(error)) from error
        return {spec.name: outputs[spec.name].numpy() for spec in signature.outputs}

    def close(self) -> None:
        super().close()
        self._model, self._functions = None, {}


register_forward("savedmodel")(SavedModelForward)
