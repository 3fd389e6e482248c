"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class IntegerList(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.2 on
    """Whole numbers in one text, separated by spaces or commas: a tuple of int."""

    name = "integers"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).replace(",", " ").split())
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers", parameter, context)


class NameList(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.2 on
    """Names in one text, separated by commas: a tuple of str."""

    name = "names"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(dict.fromkeys(name.strip() for name in str(value).split(",") if name.strip()))


def artifact_argument(function: Function) -> Function:
    """ARTIFACT: the directory that `kexport convert` wrote."""
    return click.argument("artifact", type=click.Path(path_type=Path))(function)


def json_option(function: Function) -> Function:
    """--json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def threads_option(function: Function) -> Function:
    """--threads."""
    return click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the engine's choice]")(function)
