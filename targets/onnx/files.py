"""A file's record for the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kexport.runtime.contract.manifest import File


def file_record(path: Path) -> File:
    """Name, size and SHA-256 of a small file."""
    content = path.read_bytes()
    return File(path=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
