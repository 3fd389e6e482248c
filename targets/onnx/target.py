"""The ONNX target as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.onnx.emit import emit
from kexport.targets.onnx.package import write_vendor_files


class OnnxTarget:
    """See `kexport.targets.base.Target`."""

    name = "onnx"

    def emit(self, graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
        """`model.onnx`, or `encoder_model.onnx` and `decoder_model.onnx` where there is an `encode` graph, each with its `.data`."""
        return emit(graphs, weights, directory, options)

    def write_vendor_files(
        self,
        directory: Path,
        emitted: Emitted,
        *,
        stop_token_ids: Sequence[int] = (),
        start_token_id: int | None = None,
        pad_token_id: int | None = None,
        has_tokenizer: bool = False,
        prompt_start: Sequence[int] = (),
    ) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
        """`config.json`, `generation_config.json`, and `genai_config.json` where onnxruntime-genai can run the artifact."""
        return write_vendor_files(
            directory,
            emitted,
            stop_token_ids=stop_token_ids,
            start_token_id=start_token_id,
            pad_token_id=pad_token_id,
            has_tokenizer=has_tokenizer,
        )
