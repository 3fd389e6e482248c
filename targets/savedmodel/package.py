"""Which runtimes take the artifact. TensorFlow's own need no file beside the model."""

from __future__ import annotations

from pathlib import Path

from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import Emitted

TENSORFLOW = "tensorflow"
C_API = "tensorflow-c-api"
CONSUMED = "the caches given to `prefill` and `decode` are written in place: go on with those that come back"


def write_vendor_files(directory: Path, emitted: Emitted) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
    """No files; the verdicts."""
    return (), (VendorRuntime(name=TENSORFLOW, accepted=True, reason=CONSUMED), VendorRuntime(name=C_API, accepted=True, reason=CONSUMED))
