"""The SavedModel target as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.savedmodel.emit import emit
from kexport.targets.savedmodel.package import write_vendor_files


class SavedModelTarget:
    """See `kexport.targets.base.Target`."""

    name = "savedmodel"

    def emit(self, graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
        """`saved_model.pb` and `variables/`."""
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
        """Nothing but the verdicts: TensorFlow and TensorFlow Serving read the directory as it is."""
        return write_vendor_files(directory, emitted)
