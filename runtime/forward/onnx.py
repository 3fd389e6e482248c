"""Whole rows with onnxruntime: one session a signature. A file whose weights stand in the step's data file maps that one."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import onnxruntime as ort
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import Manifest, Signature
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.engines.onnx import open_session, replaced_initializers
from kexport.runtime.forward.base import Array, Forward, first_line, register_forward


class OnnxForward(Forward):
    """See Forward."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        super().__init__(directory, manifest, options)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._replaced: dict[str, dict[str, ort.OrtValue]] = {}  # onnxruntime does not keep their memory alive

    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        if signature.name not in self._sessions:
            replaced = self._replaced[signature.name] = replaced_initializers(self.directory, self.adapter, signature.file)
            self._sessions[signature.name] = open_session(self.directory / signature.file, self.options, replaced)
        names = [spec.name for spec in signature.outputs]
        try:
            results = self._sessions[signature.name].run(names, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise InternalError("KX556", f"onnxruntime failed: {first_line(error)}", detail=str(error)) from error
        return dict(zip(names, results, strict=True))

    def drop(self, files: Container[str]) -> None:
        for signature in self.manifest.signatures:
            if signature.file in files:
                self._sessions.pop(signature.name, None)
                self._replaced.pop(signature.name, None)

    def close(self) -> None:
        super().close()
        self._sessions.clear()
        self._replaced.clear()


register_forward("onnx")(OnnxForward)
