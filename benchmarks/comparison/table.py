"""The result on the screen."""

from __future__ import annotations

from kexport.converter.console import console, table

from comparison import texts
from comparison.document import Document


def show(document: Document) -> None:
    """Print everything to standard output."""
    screen = console()
    everyone = ("on", "runtime")
    screen.print(table(texts.work_text(document), (*everyone, *_titles(texts.SPEED)), texts.rows(document, texts.SPEED)))
    screen.print(table("start and memory", (*everyone, *_titles(texts.COSTS)), texts.rows(document, texts.COSTS)))
    if document.ratios:
        columns = ("our artifact", "next to", "#speed ours / theirs", "#the same of CPU time")
        screen.print(table("medians' ratios (of rounds)", columns, texts.ratio_rows(document)))
    screen.print(table("tokens equal to the first runtime's", (*everyone, "#equal"), texts.token_rows(document)))
    if document.aims:
        screen.print(table("aims", ("", "#wanted", "#found", ""), texts.aim_rows(document)))
    if missing := texts.missing_rows(document):
        screen.print(table("not measured", (*everyone, "why"), missing))
    bandwidth = texts.spread_text(document.bandwidth_gb_per_s)
    screen.print(f"memory bandwidth {bandwidth} GB/s by {document.reader}; {texts.void_text(document)}", markup=False)


def _titles(columns: tuple[texts.Column, ...]) -> list[str]:
    return [f"#{column.title}" for column in columns]
