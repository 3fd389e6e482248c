"""The releases of KerasHub that the tests run with: the newest, and the one before it for capture (`make test-previous`)."""

from __future__ import annotations

from importlib import metadata

OLDEST, NEWEST = (0, 31), (0, 32)
PACKAGE = "keras-hub"


def untested_version() -> str:
    """A sentence where the installed KerasHub lies outside the tested range, "" where it does not, or is not there."""
    try:
        installed = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""
    numbers = tuple(int(part) if part.isdigit() else 0 for part in installed.split(".")[:2])
    if OLDEST <= numbers <= NEWEST:
        return ""
    tested = " to ".join(".".join(map(str, version)) for version in (OLDEST, NEWEST))
    return f"{PACKAGE} {installed} is not among the releases that kexport is tested with ({tested}): it is tried, and the comparison with the original decides"
