"""Replace attributes for a while and put every one back, whatever happens."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Patches:
    """A context manager; `replace` inside it, restored on exit in reverse order.

    Patches are process-wide: two captures at the same time are not supported.
    """

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, new: Any) -> Any:
        """Set `owner.name = new` and return what was there."""
        old = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
        self._saved.append((owner, name, old))
        setattr(owner, name, new)
        return old

    def __enter__(self) -> Patches:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        while self._saved:
            owner, name, old = self._saved.pop()
            setattr(owner, name, old)
