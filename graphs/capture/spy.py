"""See with which arguments a task calls one of its own methods, without running it."""

from __future__ import annotations

import inspect
from typing import Any


class _Seen(Exception):
    """Ends the call once the arguments are seen."""


def call_arguments(task: Any, outer: str, inner: str, available: dict[str, Any]) -> dict[str, Any]:
    """Call `task.outer` with what it takes of `available` and return the arguments it passes to `task.inner`.

    The task is left as found: the spy is an instance attribute, removed before returning.
    """
    signature = inspect.signature(getattr(type(task), inner))
    seen: dict[str, Any] = {}

    def spy(*args: Any, **kwargs: Any) -> None:
        seen.update(signature.bind(task, *args, **kwargs).arguments)
        raise _Seen

    method = getattr(task, outer)
    taken = {name: available.get(name) for name in inspect.signature(method).parameters}
    object.__setattr__(task, inner, spy)
    try:
        method(**taken)
    except _Seen:
        pass
    finally:
        object.__delattr__(task, inner)
    seen.pop("self", None)
    return seen
