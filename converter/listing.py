"""What `kexport list` shows: the targets and engines whose folders are here, and the families of `families.py`. Imports no target."""

from __future__ import annotations

import importlib.util
import pkgutil
from dataclasses import asdict
from typing import Any

from kexport.converter.families import FAMILIES
from kexport.converter.refusals import REFUSALS


def support() -> dict[str, list[dict[str, Any]]]:
    """`families`, `refused` (classes that do not convert, and why) and `targets`, as built-in values."""
    engines = _modules("kexport.runtime.engines", packages=False)
    targets = [{"name": name, "engine": name in engines} for name in _modules("kexport.targets", packages=True)]
    refused = [{"class": name, "reason": refusal.what, "instead": refusal.hint} for name, refusal in sorted(REFUSALS.items())]
    return {"families": [asdict(family) for family in FAMILIES], "refused": refused, "targets": targets}


def _modules(package: str, *, packages: bool) -> list[str]:
    """The names of the folders (`packages`) or of the files in a package, found without importing them."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    return sorted(module.name for module in pkgutil.iter_modules(places or []) if module.ispkg == packages)
