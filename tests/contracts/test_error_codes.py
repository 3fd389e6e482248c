"""Every error code stands on docs/errors.md, with its one kind of error."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from kexport.converter import error_page

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
ROW = re.compile(r"^\| (KX\d{3}) \| (\d) \| (\w+) \|", re.MULTILINE)
ANY_CODE = re.compile(r"\"(KX\d{3})\"")
MAKE_IT = "run: make docs"


def kinds() -> dict[str, set[str]]:
    """Code -> the classes it is raised with."""
    found: dict[str, set[str]] = defaultdict(set)
    for use in error_page.uses():
        found[use.code].add(use.class_name)
    return found


def test_every_code_is_on_the_page() -> None:
    """The page lists the codes of the code, no more and no fewer, with their exit codes and kinds."""
    listed = {(code, int(exit_code), kind) for code, exit_code, kind in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    raised = {(code, error_page.ERROR_CLASSES[kind].exit_code, kind) for code, classes in kinds().items() for kind in classes}
    assert listed == raised, MAKE_IT


def test_a_code_is_one_kind_of_error() -> None:
    """No code stands for errors of two kinds, and each is made by a class that can be told."""
    assert {code: classes for code, classes in kinds().items() if len(classes) != 1 or "" in classes} == {}


def test_nothing_escapes_the_page() -> None:
    """Every code that is spelled in the rooms was found as an error: none hides in a form that the page does not read."""
    root = Path(error_page.__file__).parents[1]
    spelled = {
        code
        for room in error_page.ROOMS
        for path in (root / room).rglob("*.py")
        for code in ANY_CODE.findall(path.read_text(encoding="utf-8"))
    }
    assert spelled - set(kinds()) == set()


def test_codes_belong_to_a_group() -> None:
    """The first digit tells the kind of trouble."""
    assert {code[:3] for code in kinds()} <= set(error_page.GROUPS)
