"""A KerasHub that nobody tested with is said to be one, and tried all the same."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from kexport.converter import versions
from kexport.converter.commands.doctor import command
from kexport.converter.versions import untested_version


@pytest.mark.parametrize(("installed", "is_told"), [("0.30.2", True), ("0.31.0", False), ("0.32.1", False), ("0.33.0.dev0", True), ("1.0", True)])
def test_what_lies_outside_the_range_is_told(installed: str, is_told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both numbers; what lies inside is no matter."""
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    said = untested_version()
    assert bool(said) == is_told and (not is_told or (installed in said and "0.31 to 0.32" in said))


def test_without_keras_hub_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is another error's business."""

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert untested_version() == ""


def test_the_installed_release_is_the_newest_that_is_tested() -> None:
    """Whoever installs another one for development moves the range."""
    assert tuple(int(part) for part in metadata.version("keras-hub").split(".")[:2]) == versions.NEWEST


def test_make_test_previous_installs_the_oldest_that_is_tested() -> None:
    """The Makefile cannot read the range: its pin is compared with it."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert f"PREVIOUS := {versions.PACKAGE}=={'.'.join(map(str, versions.OLDEST))}.*" in makefile


def test_doctor_shows_a_release_outside_the_range_and_finds_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried: the exit code stays as it is."""
    stated = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.33.0" if name == versions.PACKAGE else stated(name))
    asked = CliRunner().invoke(command, standalone_mode=False)
    assert "note: keras-hub 0.33.0 is not among the releases" in asked.output
    monkeypatch.undo()
    usual = CliRunner().invoke(command, standalone_mode=False)
    assert "note:" not in usual.output and usual.return_value == asked.return_value is not None
