"""The rivals by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import rivals
from rivals.base import Rival

_MAKERS: dict[str, Callable[[], Rival]] = {}
_HELPERS = ("base", "registry")


def register(name: str) -> Callable[[Callable[[], Rival]], Callable[[], Rival]]:
    """Decorator: what it stands on makes the rival `name`."""

    def enter(maker: Callable[[], Rival]) -> Callable[[], Rival]:
        _MAKERS[name] = maker
        return maker

    return enter


def all_rivals() -> dict[str, Rival]:
    """A new rival for every name, in the names' order."""
    for module in pkgutil.iter_modules(rivals.__path__):
        if module.name not in _HELPERS:
            importlib.import_module(f"rivals.{module.name}")
    return {name: _MAKERS[name]() for name in sorted(_MAKERS)}


def rival(name: str) -> Rival:
    """The rival called `name`. Raises KeyError if there is none."""
    return all_rivals()[name]
