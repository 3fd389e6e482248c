"""Every error a user can meet, as data: a stable code, what is wrong, and the way out.

    KexportError
     ├── InternalError       exit 1   a bug in kexport
     ├── UsageError          exit 2   the call's words are off
     ├── ParityError         exit 3   the artifact's tokens are not the original's
     ├── UnsupportedError    exit 4   a model, op, target, option or version kexport does not do
     ├── InvalidInputError   exit 5   an unknown preset, a malformed or tampered file, ids out of range
     └── ResourceError       exit 6   memory, disk, a format's size limit

A handler can catch the base class:

    try:
        artifact = convert("my_preset", target="onnx", output="OUT")
    except KexportError as error:
        print(error.code, error.message, error.hint)

Codes: KX1xx usage, KX2xx capture and lowering, KX3xx parity, KX4xx sources, KX5xx artifacts and the runtime, KX6xx resources,
KX9xx internal. A code, once released, keeps its meaning; docs/errors.md lists them.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130


class KexportError(Exception):
    """The base class. `message` states the fact and names the thing; `hint` states the way out; `detail` is for `--debug` only."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        text = f"[{self.code}] {self.message}"
        return f"{text}\nhint: {self.hint}" if self.hint else text


class InternalError(KexportError):
    """Something inside kexport contradicts itself: a bug to report."""

    exit_code = 1


class UsageError(KexportError):
    """The options contradict each other or name something that does not exist."""

    exit_code = 2


class ParityError(KexportError):
    """The written artifact does not give the original's tokens."""

    exit_code = 3


class UnsupportedError(KexportError):
    """A model, op, target, option or installed version that kexport does not handle."""

    exit_code = 4


class InvalidInputError(KexportError, ValueError):
    """What was given is not what it should be: a preset, a prompt, an artifact. Also a `ValueError`, as KerasHub's callers expect."""

    exit_code = 5


class ResourceError(KexportError):
    """Not enough memory or disk, or a size limit of a format."""

    exit_code = 6
