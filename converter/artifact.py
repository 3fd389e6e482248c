"""What a conversion returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kexport.runtime.contract.errors import KexportError
from kexport.runtime.contract.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds per stage, bytes written, peak memory of this process (resident, as the system counts it)."""

    seconds: dict[str, float] = field(default_factory=dict)
    bytes_written: int = 0
    peak_resident_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact: its directory, its manifest, and how it came about. `notes`: what stayed unfused or was warned about."""

    directory: Path
    manifest: Manifest
    summary: Summary
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target: its artifact, or the error that stopped it."""

    target: str
    artifact: Artifact | None = None
    error: KexportError | None = None
