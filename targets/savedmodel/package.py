"""Which runtimes take the artifact. TensorFlow's own need no file beside the model."""

from __future__ import annotations

from pathlib import Path

from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import Emitted

TENSORFLOW = "tensorflow"
C_API = "tensorflow-c-api"
CONSUMED = "the caches given to `prefill` and `decode` are written in place: go on with those that come back"

NO_LOOP = "there is no `generate` signature: it pads prompts, and the states of recurrent layers know no padding"


def write_vendor_files(directory: Path, emitted: Emitted) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
    """No files; the verdicts."""
    reason = f"{CONSUMED}; {NO_LOOP}" if emitted.cache.has_states else CONSUMED
    return (), (VendorRuntime(name=TENSORFLOW, accepted=True, reason=reason), VendorRuntime(name=C_API, accepted=True, reason=reason))
