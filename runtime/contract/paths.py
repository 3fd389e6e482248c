"""Is a path that an artifact names safe to open? Artifacts come from strangers: a path must stay a plain file inside its directory."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import InvalidInputError

_CODE_UNSAFE = "KX505"
_CODE_MISSING = "KX508"
_DRIVE_LETTER = re.compile(r"^[A-Za-z]:")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_HINT = "the artifact may have been tampered with; convert the model again or fetch the artifact from its source again"


def _unsafe(path: str, why: str) -> InvalidInputError:
    return InvalidInputError(_CODE_UNSAFE, f"the artifact names the file {path!r}, which {why}", hint=_HINT)


def check_relative_path(path: str) -> None:
    """Accept only a plain relative path with forward slashes, without looking at the file system.

    Raises InvalidInputError (KX505) for an absolute path, `..`, `.`, an empty part, a backslash, a drive letter, a control character
    (NUL included), and a part that ends in a dot or a space (other systems drop these, so two names would become one file).
    """
    if not path:
        raise _unsafe(path, "is empty")
    if _CONTROL_CHARACTER.search(path):
        raise _unsafe(path, "holds a control character")
    if "\\" in path:
        raise _unsafe(path, "holds a backslash")
    if _DRIVE_LETTER.match(path):
        raise _unsafe(path, "starts with a drive letter")
    if path.startswith("/"):
        raise _unsafe(path, "is absolute")
    for part in path.split("/"):
        if part == "..":
            raise _unsafe(path, "leaves the artifact's directory")
        if part in ("", "."):
            raise _unsafe(path, "holds an empty part")
        if part.endswith((".", " ")):
            raise _unsafe(path, "has a part that ends in a dot or a space")


def check_no_twins(paths: Iterable[str]) -> None:
    """No two paths may be the same file where case does not count. Raises InvalidInputError (KX505)."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if folded in seen:
            raise _unsafe(path, f"is the same as {seen[folded]!r} on file systems that ignore case")
        seen[folded] = path


def open_path(directory: Path, path: str) -> Path:
    """The plain file `path` inside `directory`, checked on the file system; returns the joined path.

    Raises InvalidInputError: KX505 for what `check_relative_path` refuses, a symbolic link in any part, a file with more than one hard
    link, and anything that is not a plain file (directory, FIFO, device, socket); KX508 where there is no such file.
    """
    check_relative_path(path)
    current = directory
    parts = path.split("/")
    for depth, part in enumerate(parts, start=1):
        current = current / part
        try:
            status = current.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidInputError(_CODE_MISSING, f"the artifact has no file `{path}`", hint=_HINT) from None
        except OSError as error:
            raise InvalidInputError(_CODE_MISSING, f"the artifact's file `{path}` cannot be read: {error.strerror}", hint=_HINT) from error
        if stat.S_ISLNK(status.st_mode):
            raise _unsafe(path, "is or lies behind a symbolic link")
        if depth < len(parts):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe(path, "is not a plain file")
        if status.st_nlink > 1:
            raise _unsafe(path, "has more than one hard link")
    return current
