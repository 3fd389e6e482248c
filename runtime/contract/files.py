"""Directories that appear whole or not at all, digests of files, and the check for free disk.

A directory is built in a hidden sibling of its final place, on the same file system, and renamed when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ParityError, ResourceError, UsageError

_CHUNK_BYTES = 1 << 20
_BYTES_PER_MEGABYTE = 1_000_000
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def sha256_file(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file as hexadecimal digits, read in pieces; `advance` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def check_free_disk(directory: Path, bytes_needed: int) -> None:
    """Raise ResourceError (KX601) unless the file system of `directory` (or of its nearest existing parent) has `bytes_needed` free."""
    free = shutil.disk_usage(_existing_parent(directory)).free
    if free < bytes_needed:
        needed, left = bytes_needed / _BYTES_PER_MEGABYTE, free / _BYTES_PER_MEGABYTE
        message = f"`{directory}` needs {needed:.0f} MB of disk and {left:.0f} MB are free"
        raise ResourceError("KX601", message, hint="free some space, or choose an output on another disk")


@contextmanager
def publish_directory(output: Path, *, force: bool = False, bytes_needed: int = 0, keep_failed: bool = False) -> Iterator[Path]:
    """Give an empty directory to fill; when the block ends well it becomes `output`, else it is removed.

    Any exception, KeyboardInterrupt included, leaves `output` as it was. With `force` an existing `output` is set aside, replaced, and only
    then deleted; should the replacement fail it is put back. With `keep_failed` a block that raises ParityError leaves its
    directory as `<output>.failed`.

    Raises UsageError: KX110 where `output` exists and `force` is not set, KX111 where replacing it would remove the working directory,
    the home directory or the root. ResourceError: KX601 for a full disk, KX602 for a place that cannot be written.
    """
    output = Path(os.path.abspath(output))
    _check_replaceable(output, force)
    check_free_disk(output, bytes_needed)
    created_parents = _make_parents(output)
    work: Path | None = None
    try:
        with _writing(output):
            work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
            work.chmod(0o777 & ~_umask())
        yield work
        with _writing(output):
            _sync_tree(work)
            _check_replaceable(output, force)  # someone may have been faster
            _move_into_place(work, output)
        work = None
        created_parents = []
    except ParityError:
        if keep_failed and work is not None:
            failed = output.with_name(f"{output.name}.failed")
            with _writing(failed):
                _move_into_place(work, failed)
            work = None
            created_parents = []
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _disk_full(output) from error
        raise
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for parent in created_parents:
            _remove_if_empty(parent)


def _check_replaceable(output: Path, force: bool) -> None:
    """Raise UsageError where `output` exists and must not be replaced."""
    if not os.path.lexists(output):
        return
    if not force:
        raise UsageError("KX110", f"`{output}` exists", hint="choose another output, or replace it with --force")
    real = output.resolve()
    here, home = Path.cwd().resolve(), Path.home().resolve()
    for kept in (here, home):
        if kept == real or kept.is_relative_to(real):
            hint = "choose an output directory of its own"
            raise UsageError("KX111", f"`{output}` holds the working or home directory and is not replaced", hint=hint)


def _move_into_place(work: Path, output: Path) -> None:
    """Rename `work` to `output`; what stands there is set aside first, and put back if the renaming fails."""
    if not os.path.lexists(output):
        os.replace(work, output)
        _sync_directory(output.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    try:
        os.rename(output, aside / "old")
        os.replace(work, output)
    except BaseException:
        if os.path.lexists(aside / "old"):
            os.rename(aside / "old", output)
        aside.rmdir()
        raise
    _sync_directory(output.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name `output`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _disk_full(output) from error
        reason = error.strerror or str(error)
        hint = "choose an output directory that you may write to"
        raise ResourceError("KX602", f"cannot write `{output}`: {reason}", hint=hint) from error


def _disk_full(output: Path) -> ResourceError:
    return ResourceError("KX601", f"the disk is full while writing `{output}`", hint="free some space, or choose an output on another disk")


def _make_parents(output: Path) -> list[Path]:
    """Make the missing parents of `output`; returns those made, deepest first."""
    missing = [parent for parent in output.parents if not parent.exists()]
    with _writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _existing_parent(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # someone else put something there: it is theirs now


def _sync_tree(directory: Path) -> None:
    """Force every file and directory below `directory` to disk, so that the renamed directory is whole after a power cut."""
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as stream:
                os.fsync(stream.fileno())
        _sync_directory(Path(folder))


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
