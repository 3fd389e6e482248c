"""What commands print: one JSON document, or tables, to standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LEAST_WIDTH_OF_A_PIPE = 160
_KILO = 1000.0
_REPLACEMENT = "\ufffd"


def print_json(document: Any) -> None:
    """Print `document` (built-in values, or msgspec records) as JSON to standard output."""
    click.echo(json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """A console on standard output; rich itself looks at NO_COLOR and at whether it is a terminal."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen = Console(highlight=False, width=max(screen.width, _LEAST_WIDTH_OF_A_PIPE))
    return screen


def table(title: str, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> Table:
    """A plain table; columns whose name starts with `#` are numbers, aligned to the right. Cells are text: no markup, no control characters."""
    result = Table(
        title=_plain(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, show_header=any(columns)
    )
    for column in columns:
        result.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        result.add_row(*(_plain(str(cell)) for cell in row))
    return result


def _plain(text: str) -> Text:
    """`text` as it stands; what would steer a terminal is shown as a replacement character: manifests may come from strangers."""
    return Text("".join(character if character.isprintable() else _REPLACEMENT for character in text))


def size_text(count: float) -> str:
    """`count` bytes for people, in powers of 1000: `9.1 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < _KILO:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} TB"
