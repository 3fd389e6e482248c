"""Replace attributes for a while and put every one back, whatever happens."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

_INHERITED = object()


class Patches:
    """A context manager; `replace` inside it, restored on exit in reverse order.

    Patches are process-wide: two captures at the same time are not supported.
    """

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, new: Any) -> Any:
        """Set `owner.name = new` and return what was there."""
        own = vars(owner).get(name, _INHERITED)
        self._saved.append((owner, name, own))
        old = getattr(owner, name)
        setattr(owner, name, new)
        return old

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        while self._saved:
            owner, name, old = self._saved.pop()
            if old is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
