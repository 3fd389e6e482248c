"""What is declared for KerasHub classes by name: for an object that of its own class, or of the nearest of its bases, is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ByClass(Generic[T]):
    """Declarations by class name. Names, not classes: a class that the installed KerasHub does not have yet is never imported."""

    def __init__(self) -> None:
        self._declared: dict[str, T] = {}

    def register(self, *class_names: str) -> Callable[[T], T]:
        """A decorator: what it stands on is declared for these classes."""

        def declare(declaration: T) -> T:
            self._declared.update(dict.fromkeys(class_names, declaration))
            return declaration

        return declare

    def of(self, instance: Any) -> T | None:
        """What is declared for an object's class, None where nothing is."""
        return next((self._declared[cls.__name__] for cls in type(instance).__mro__ if cls.__name__ in self._declared), None)
