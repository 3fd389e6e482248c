"""Adapters in the manifest's words; one that is kept apart also as a file, in terms of the artifact's own tensors.

An adapter's file holds the factors as KerasHub saved them, a [..., rank] and b [rank, out] of each parameter. Where their product goes is
said in the manifest: a tensor of the artifact may be several parameters side by side, turned or padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def adapter_records(adapters: Iterable[Adapter], emitted: Emitted, directory: Path) -> tuple[records.Adapter, ...]:
    """What the manifest says of the adapters of a conversion. Those that are not merged are written into `directory`."""
    return tuple(_record(adapter, emitted, directory) for adapter in adapters)


def _record(adapter: Adapter, emitted: Emitted, directory: Path) -> records.Adapter:
    path = "" if adapter.merged else _write_factors(adapter, directory)
    file = adapter.file
    scale = next(iter(adapter.updates.values())).scale
    record = records.Adapter(
        name=adapter.name,
        source=file.path.name,
        digest=file.digest,
        rank=file.rank,
        alpha=scale * file.rank,
        mode="merge" if adapter.merged else "separate",
        file=path,
        tensors=() if adapter.merged else tuple(_tensors(emitted.replaceable, adapter)),
    )
    if not adapter.merged:
        _check_all_are_placed(adapter, record)
    return record


def _write_factors(adapter: Adapter, directory: Path) -> str:
    from safetensors.numpy import save_file

    path = f"{FOLDER}/{adapter.name}.safetensors"
    (directory / FOLDER).mkdir(exist_ok=True)
    factors: dict[str, Array] = {}
    for name, update in adapter.updates.items():
        factors |= {_a(name): update.a(), _b(name): update.b()}
    save_file(factors, directory / path)
    return path


def _tensors(stored: Iterable[StoredTensor], adapter: Adapter) -> Iterator[records.AdapterTensor]:
    """Those of the tensors that this adapter changes."""
    for tensor in stored:
        weight = tensor.weight
        parts = [_part(parameter.name, adapter.updates[parameter.name], steps) for parameter, steps in placements(weight) if parameter.name in adapter.updates]
        if parts:
            yield records.AdapterTensor(
                file=tensor.file, name=tensor.name, dtype=weight.dtype, shape=weight.shape, data=tensor.data, offset=tensor.offset, parts=tuple(parts)
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
