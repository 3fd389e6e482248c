"""Paths in artifacts are hostile until proven plain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.paths import check_no_twins, check_relative_path, open_path

HOSTILE = [
    "", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "..\\x", "C:\\x", "C:x", "c:/x", "a\x00b", "a\nb",
    "a.", "a ", "a./b", "a /b", "\x7f", "//server/share",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_spellings(path: str, tmp_path: Path) -> None:
    """Each way out of the directory, or to another name elsewhere, is refused without touching the file system."""
    with pytest.raises(InvalidInputError, match="KX505"):
        check_relative_path(path)
    with pytest.raises(InvalidInputError, match="KX505"):
        open_path(tmp_path, path)


@given(st.text())
def test_accepted_paths_stay_inside(path: str) -> None:
    """Whatever is accepted lies inside the directory."""
    try:
        check_relative_path(path)
    except InvalidInputError:
        return
    assert os.path.normpath(os.path.join("/root/dir", path)).startswith("/root/dir/")


def test_plain_files_open(tmp_path: Path) -> None:
    """A plain file is found, in a folder, too, and with dots, spaces and letters of any kind in its name."""
    for name in ("model.onnx", "variables/a.b", ".hidden", "größe 1.txt", "a..b"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        assert open_path(tmp_path, name) == path


def test_things_that_are_no_plain_file(tmp_path: Path) -> None:
    """Links of both kinds, a link in the middle, directories and pipes are refused; what is not there is KX508."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "symlink").symlink_to(outside / "secret")
    (inside / "dangling").symlink_to(outside / "nothing")
    (inside / "folder-link").symlink_to(outside)
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    (inside / "hard").hardlink_to(outside / "secret")
    for name in ("symlink", "dangling", "folder-link/secret", "folder", "pipe", "hard"):
        with pytest.raises(InvalidInputError, match="KX505"):
            open_path(inside, name)
    for name in ("nothing", "folder/nothing", "nothing/x"):
        with pytest.raises(InvalidInputError, match="KX508"):
            open_path(inside, name)
    (inside / "plain").write_text("x")
    with pytest.raises(InvalidInputError, match="KX508"):
        open_path(inside, "plain/x")
    with pytest.raises(InvalidInputError, match="KX508"):
        open_path(inside, "n" * 5000)


def test_artifact_directory_may_be_a_link(tmp_path: Path) -> None:
    """What lies above the artifact is the user's business."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert open_path(tmp_path / "link", "file").read_text() == "x"


def test_twins() -> None:
    """Two names that one file system may hold for one."""
    check_no_twins(["a", "b", "A1", "a2"])
    for pair in (["model.onnx", "Model.onnx"], ["straße", "STRASSE"], ["a", "a"]):
        with pytest.raises(InvalidInputError, match="KX505"):
            check_no_twins(pair)
