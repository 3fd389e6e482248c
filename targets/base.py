"""What a target is: a renderer of graphs into files, and the records it hands back for the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kexport.graphs.ir import Graph
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Cache, Experts, File, Fusion, Signature, VendorRuntime
from numpy.typing import NDArray

TensorHook = Callable[[str, NDArray[Any]], None]


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What a target is asked for.

    `capacity`: the longest sequence (prompt and new tokens together) the artifact serves. `stored_dtype`: how matrices are stored;
    compute is float32. `opset_only`: standard operators only. For targets of fixed shapes: `encoder_capacity`, the longest encoder prompt
    (0: as `capacity`), and `prefill_buckets`, the lengths of prompts, and of whole rows, that get a signature of their own (none: the target's
    choice).
    `package`: the form of the result where a target has several. `on_tensor(name, array)`: called for every tensor written to a weight
    file, in file order, while the array is alive anyway (NaN checks, digests, progress); it must not keep the array.
    `replaceable`: parameters that are replaced when an engine opens the artifact. Tensors that read one stand in a weight file, whatever
    their size, and are told in `Emitted.replaceable`; targets that cannot replace tensors have none.
    """

    capacity: int
    stored_dtype: str = "float32"
    opset_only: bool = False
    encoder_capacity: int = 0
    prefill_buckets: tuple[int, ...] = ()
    package: str = ""
    on_tensor: TensorHook | None = None
    replaceable: frozenset[str] = frozenset()

    def is_replaceable(self, weight: Weight) -> bool:
        """Whether `weight` reads a replaceable parameter."""
        return any(parameter.name in self.replaceable for parameter in weight.parameters())


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a weight stands: the tensor `name` of the model file `file`, its bytes in the file `data` from `offset` on."""

    file: str
    name: str
    weight: Weight
    data: str
    offset: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that vendors' runtimes ask for. Heads and sizes are those of the first layer; `uniform` says whether all layers agree."""

    hidden_size: int
    vocabulary_size: int
    attention_heads: int
    key_value_heads: int
    stored_head_dim: int
    layers: int
    uniform: bool


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was written, in the manifest's own records."""

    signatures: tuple[Signature, ...]
    cache: Cache
    fusions: tuple[Fusion, ...]
    ops: dict[str, int]
    files: tuple[File, ...]
    geometry: Geometry
    replaceable: tuple[StoredTensor, ...] = ()
    experts: tuple[Experts, ...] = ()

    @property
    def takes_extents(self) -> bool:
        """Whether steps are told where the original's calls end."""
        return any(spec.name == names.EXTENT for signature in self.signatures for spec in signature.inputs)


class Target(Protocol):
    """One target. Both methods write into an existing directory that the caller publishes or throws away."""

    name: str

    def emit(self, graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
        """Render `graphs` (by signature name) and their weights into `directory`.

        Raises:
            UnsupportedError: the target cannot render an op, a dtype or an option.
        """
        ...

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
        """Write the files that vendors' own runtimes read beside the model; say which of them take the artifact, and why not.

        `prompt_start`: the ids that the original's preprocessor puts in front of every prompt.
        """
        ...
