"""What `stop_token_ids="auto"` means for one loaded model: asked of its own `generate()`, not copied from it."""

from __future__ import annotations

from typing import Any

from kexport.runtime.contract.errors import UnsupportedError

_PROMPT = "a"
_LENGTH = 8  # of a generation that never comes; some models have no default


class _Asked(Exception):
    """Carries the ids out of `generate()`."""

    def __init__(self, stop_token_ids: Any) -> None:
        super().__init__()
        self.stop_token_ids = stop_token_ids


def resolve_stop_token_ids(task: Any) -> tuple[int, ...] | None:
    """The ids that the task's `generate()` resolves `"auto"` to; None for a task without preprocessor (there `"auto"` is an error).

    Runs `generate()` up to the point where it would call the compiled function; that function is put back as it was found.

    Raises:
        UnsupportedError: KX444, `generate()` never asked for generation.
    """
    if getattr(task, "preprocessor", None) is None:
        return None
    found = task.generate_function
    task.generate_function = _report
    try:
        task.generate(_PROMPT, max_length=_LENGTH)
    except _Asked as asked:
        return None if asked.stop_token_ids is None else tuple(int(token) for token in asked.stop_token_ids)
    finally:
        task.generate_function = found
    raise UnsupportedError(
        "KX444", f"`{type(task).__name__}.generate()` does not use its generate function", hint="pass --stop-token-ids when generating"
    )


def _report(inputs: Any, stop_token_ids: Any = None, **_: Any) -> Any:
    raise _Asked(stop_token_ids)


def tokenizer_stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """The base class's rule for `"auto"`, for a tokenizer without a model: its end token, and its second end token if it has one."""
    ids = (getattr(tokenizer, "end_token_id", None), getattr(tokenizer, "end_token2_id", None))
    return tuple(int(identifier) for identifier in ids if identifier is not None)
