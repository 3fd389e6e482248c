"""An adapter in the manifest's words; one that is kept apart also as a file, in terms of the artifact's own tensors.

An adapter's file holds the factors as KerasHub saved them, a [..., rank] and b [rank, out] of each parameter. Where their product goes is
said in the manifest: a tensor of the artifact may be several parameters side by side, turned or padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kexport.graphs.low_rank import LowRank, placements
from kexport.graphs.weights import Array
from kexport.runtime.contract import manifest as records
from kexport.runtime.contract.errors import InternalError
from kexport.targets.base import Emitted, StoredTensor

if TYPE_CHECKING:
    from kexport.converter.original import Adapter

FOLDER = "adapters"


def adapter_records(adapter: Adapter | None, emitted: Emitted, directory: Path) -> tuple[records.Adapter, ...]:
    """What the manifest says of the adapter of a conversion. One that is not merged is written into `directory`."""
    if adapter is None:
        return ()
    path = "" if adapter.merged else _write_factors(adapter, directory)
    file = adapter.file
    scale = next(iter(adapter.updates.values())).scale
    record = records.Adapter(
        name=file.name,
        source=file.path.name,
        digest=file.digest,
        rank=file.rank,
        alpha=scale * file.rank,
        mode="merge" if adapter.merged else "separate",
        file=path,
        tensors=() if adapter.merged else tuple(_tensor(stored, adapter) for stored in emitted.replaceable),
    )
    if not adapter.merged:
        _check_all_are_placed(adapter, record)
    return (record,)


def _write_factors(adapter: Adapter, directory: Path) -> str:
    from safetensors.numpy import save_file

    path = f"{FOLDER}/{adapter.file.name}.safetensors"
    (directory / FOLDER).mkdir(exist_ok=True)
    factors: dict[str, Array] = {}
    for name, update in adapter.updates.items():
        factors |= {_a(name): update.a(), _b(name): update.b()}
    save_file(factors, directory / path)
    return path


def _tensor(stored: StoredTensor, adapter: Adapter) -> records.AdapterTensor:
    weight = stored.weight
    parts = [
        _part(parameter.name, adapter.updates[parameter.name], steps)
        for parameter, steps in placements(weight)
        if parameter.name in adapter.updates
    ]
    return records.AdapterTensor(
        file=stored.file, name=stored.name, dtype=weight.dtype, shape=weight.shape, data=stored.data, offset=stored.offset, parts=tuple(parts)
    )


def _part(name: str, update: LowRank, steps: tuple[records.AdapterStep, ...]) -> records.AdapterPart:
    return records.AdapterPart(a=_a(name), b=_b(name), scale=update.scale, steps=steps)


def _a(name: str) -> str:
    return f"{name}.lora_a"


def _b(name: str) -> str:
    return f"{name}.lora_b"


def _check_all_are_placed(adapter: Adapter, record: records.Adapter) -> None:
    placed = {part.a for tensor in record.tensors for part in tensor.parts}
    lost = [name for name in adapter.updates if _a(name) not in placed]
    if lost:
        raise InternalError("KX920", f"no tensor of the artifact was told to hold `{lost[0]}`, which the adapter updates")
