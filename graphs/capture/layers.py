"""Small facts about Keras layer classes."""

from __future__ import annotations

from typing import Any


def subclasses(cls: type[Any]) -> list[type[Any]]:
    """`cls` and every class derived from it that is loaded now, each once, parents first."""
    found = [cls]
    for current in found:
        found += [sub for sub in current.__subclasses__() if sub not in found]
    return found
