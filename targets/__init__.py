"""Targets: one folder each, found by its name and imported only when asked for.

    targets.get("onnx").emit(graphs, weights, directory, EmitOptions(capacity=2048))

A folder is a target when its package has a `TARGET`; a new target is a new folder.
"""

from __future__ import annotations

import importlib
import pkgutil

from kexport.runtime.contract.errors import UnsupportedError, UsageError
from kexport.targets.base import EmitOptions, Emitted, Geometry, Target


def known() -> tuple[str, ...]:
    """The names of all targets, without importing any."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def get(name: str) -> Target:
    """The target called `name`.

    Raises:
        UsageError: there is no such target.
        UnsupportedError: the target's libraries are not installed.
    """
    if name not in known():
        raise UsageError("KX101", f"unknown target `{name}`", hint=f"the targets are: {', '.join(known())}")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kexport"):
            raise
        raise UnsupportedError(
            "KX209", f"target `{name}` needs the package `{error.name}`, which is not installed", hint='pip install "kexport[convert]"'
        ) from error
    target: Target = module.TARGET
    return target


__all__ = ["EmitOptions", "Emitted", "Geometry", "Target", "get", "known"]
