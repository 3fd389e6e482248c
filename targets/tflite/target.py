"""The TFLite target as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.tflite.emit import emit
from kexport.targets.tflite.package import write_vendor_files


class TfliteTarget:
    """See `kexport.targets.base.Target`."""

    name = "tflite"

    def emit(self, graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
        """`model.tflite` with its signatures, written directly; a bundle for LiteRT-LM is made of it by `write_vendor_files`."""
        return emit(graphs, weights, directory, options)

    def write_vendor_files(
        self,
        directory: Path,
        emitted: Emitted,
        *,
        stop_token_ids: Sequence[int] = (),
        start_token_id: int | None = None,
        pad_token_id: int | None = None,
        prompt_start: Sequence[int] = (),
        has_tokenizer: bool = False,
    ) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
        """`model.litertlm` in place of `model.tflite` where the artifact is to be one."""
        return write_vendor_files(directory, emitted, stop_token_ids=stop_token_ids, prompt_start=prompt_start, has_tokenizer=has_tokenizer)
