"""An adapter in the manifest's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kexport.runtime.contract import manifest as records

if TYPE_CHECKING:
    from kexport.converter.original import Adapter


def adapter_records(adapter: Adapter | None) -> tuple[records.Adapter, ...]:
    """What the manifest says of the adapter of a conversion."""
    if adapter is None:
        return ()
    return (_record(adapter),)


def _record(adapter: Adapter) -> records.Adapter:
    file = adapter.file
    scale = next(iter(adapter.updates.values())).scale
    return records.Adapter(name=file.name, source=file.path.name, digest=file.digest, rank=file.rank, alpha=scale * file.rank)
