"""A directory appears whole or not at all, whatever interrupts its making."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from kexport.runtime.contract import files
from kexport.runtime.contract.errors import ParityError, ResourceError, UsageError
from kexport.runtime.contract.files import check_free_disk, publish_directory, sha256_file


def listing(directory: Path) -> list[str]:
    """Every name in `directory`, hidden ones included."""
    return sorted(path.name for path in directory.iterdir())


def test_complete_directory_appears(tmp_path: Path) -> None:
    """Files written in the block stand under the final name, readable as usual, and nothing else is left."""
    output = tmp_path / "new" / "parents" / "OUT"
    with publish_directory(output) as work:
        assert not output.exists()
        (work / "file").write_text("x")
    assert (output / "file").read_text() == "x"
    assert listing(output.parent) == ["OUT"]
    (tmp_path / "plain").mkdir()
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), ParityError("KX301", "x")])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: BaseException) -> None:
    """Not even the parents that were made."""
    with pytest.raises(type(error)), publish_directory(tmp_path / "made" / "OUT") as work:
        (work / "file").write_text("x")
        raise error
    assert listing(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_old_directory_stays_after_an_error(tmp_path: Path, error: BaseException) -> None:
    """With force, too, the old one stands until the new one is whole."""
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "old").write_text("old")
    with pytest.raises(type(error)), publish_directory(tmp_path / "OUT", force=True):
        raise error
    assert listing(tmp_path) == ["OUT"]
    assert listing(tmp_path / "OUT") == ["old"]


def test_existing_output_needs_force(tmp_path: Path) -> None:
    """Without force an existing output, empty or not, file or dangling link, is refused before the block runs."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(UsageError, match=r"KX110(.|\n)*--force"), publish_directory(tmp_path / name):
            pytest.fail("the block must not run")
    assert listing(tmp_path) == ["empty", "file", "link"]


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_force_replaces(tmp_path: Path, kind: str) -> None:
    """The new directory takes the old one's place; what a link points to is not touched."""
    output, elsewhere = tmp_path / "OUT", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    if kind == "directory":
        output.mkdir()
        (output / "old").write_text("old")
    elif kind == "file":
        output.write_text("old")
    else:
        output.symlink_to(elsewhere)
    with publish_directory(output, force=True) as work:
        (work / "new").write_text("new")
    assert listing(output) == ["new"]
    assert listing(tmp_path) == ["OUT", "elsewhere"]
    assert listing(elsewhere) == ["kept"]


def test_failed_replacement_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last rename fails the old directory stands under its name again."""
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "old").write_text("old")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with publish_directory(tmp_path / "OUT", force=True):
        monkeypatch.setattr(files.os, "replace", refuse)
        with pytest.raises(ResourceError, match="KX602"):  # the same call as at the block's end
            files._check_replaceable(tmp_path / "OUT", True)
            with files._writing(tmp_path / "OUT"):
                files._move_into_place(tmp_path / "nothing", tmp_path / "OUT")
        monkeypatch.undo()
        assert listing(tmp_path / "OUT") == ["old"]


def test_working_and_home_directory_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force does not reach the place one stands in, its parents, or home."""
    inside = tmp_path / "work" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for output in (inside, tmp_path / "work", Path("."), tmp_path / "home", Path("/")):
        with pytest.raises(UsageError, match="KX111"), publish_directory(output, force=True):
            pytest.fail("the block must not run")


def test_someone_else_was_faster(tmp_path: Path) -> None:
    """An output that appears while ours is being made is not overwritten."""
    with pytest.raises(UsageError, match="KX110"), publish_directory(tmp_path / "OUT"):
        (tmp_path / "OUT").mkdir()
        (tmp_path / "OUT" / "theirs").write_text("x")
    assert listing(tmp_path) == ["OUT"]
    assert listing(tmp_path / "OUT") == ["theirs"]


def test_keep_failed(tmp_path: Path) -> None:
    """A refused artifact is kept under another name where asked for, replacing an earlier one."""
    for content in ("first", "second"):
        with pytest.raises(ParityError), publish_directory(tmp_path / "OUT", keep_failed=True) as work:
            (work / "file").write_text(content)
            raise ParityError("KX301", "x")
    assert listing(tmp_path) == ["OUT.failed"]
    assert (tmp_path / "OUT.failed" / "file").read_text() == "second"


def test_full_disk(tmp_path: Path) -> None:
    """Too little disk is said beforehand with both figures, and while writing as the same error."""
    with pytest.raises(ResourceError, match=r"KX601.*MB"), publish_directory(tmp_path / "a" / "OUT", bytes_needed=1 << 60):
        pytest.fail("the block must not run")
    check_free_disk(tmp_path / "not" / "there", 1)
    with pytest.raises(ResourceError, match="KX601"), publish_directory(tmp_path / "OUT"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert listing(tmp_path) == []


def test_unwritable_place(tmp_path: Path) -> None:
    """A parent that is a file, or a file system that refuses, is a clear error with the output's name."""
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file" / "OUT", Path("/proc/kexport/OUT")):
        with pytest.raises(ResourceError, match=r"KX602.*OUT"), publish_directory(output):
            pytest.fail("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_parent(tmp_path: Path) -> None:
    """A directory without write permission is named."""
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="KX602"), publish_directory(tmp_path / "OUT"):
        pytest.fail("the block must not run")


def test_digest_and_its_progress(tmp_path: Path) -> None:
    """The digest is SHA-256, and the pieces told add up to the file."""
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    assert sha256_file(tmp_path / "file", advance=told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)
    assert len(told) > 1
