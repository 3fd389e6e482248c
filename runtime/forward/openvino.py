"""Whole rows with OpenVINO's CPU plugin: one compiled model a signature, most of them over the weights of the step's file, which is mapped."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
import openvino as ov
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import Manifest, Signature
from kexport.runtime.contract.paths import open_path
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.engines.openvino import compile_model, with_adapter
from kexport.runtime.forward.base import Array, Forward, first_line, register_forward


class OpenVinoForward(Forward):
    """See Forward."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        super().__init__(directory, manifest, options)
        self._core = ov.Core()
        self._models: dict[str, ov.CompiledModel] = {}

    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        if signature.name not in self._models:
            data = open_path(self.directory, signature.data) if signature.data else None
            path = self.directory / signature.file
            changed = None if self.adapter is None else with_adapter(self._core, path, self.adapter, data=data)
            self._models[signature.name] = compile_model(self._core, path, self.options, changed, data=data)
        request = self._models[signature.name].create_infer_request()
        feeds = {name: array if array.flags.writeable else array.copy() for name, array in feeds.items()}  # read-only memory cannot be shared
        try:
            for name, array in feeds.items():
                request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise InternalError("KX556", f"openvino failed: {first_line(error)}", detail=str(error)) from error
        return {spec.name: np.array(request.get_tensor(spec.name).data) for spec in signature.outputs}

    def drop(self, files: Container[str]) -> None:
        for signature in self.manifest.signatures:
            if signature.file in files:
                self._models.pop(signature.name, None)

    def close(self) -> None:
        super().close()
        self._models.clear()


register_forward("openvino")(OpenVinoForward)
