"""docs/performance.md, from a document alone. What stands below the marker was written by people and is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from comparison import texts
from comparison.document import Document

MARKER = "<!-- written by hand from here on: kept when the page is made again -->"
MEGABYTE = 1_000_000
METHOD = """Every figure is the median of the rounds with its least and greatest value. In each round every contestant runs once, one after the other, each in
a fresh process: it imports its libraries, loads, answers a first prompt (*cold*), then a second one of the same length with other tokens, which is the
one that is timed. Time per token is the median step behind the first token; CPU time is that of all the process's threads. Peaks of memory are the
contestant's alone, loading included; *anonymous* leaves out mapped files.

The *floor* is the time in which the bytes that one step must read (all weights but the embedding rows, and the filled part of the caches) come from
memory, at the bandwidth measured in the same process just before and just after. A share of 100 % cannot be beaten by anything that reads them all.
Ratios are speeds: ours / theirs, above 1 we are faster; the range in brackets is of the single rounds."""


def write(path: Path, document: Document, plot: str) -> None:
    """Make the page anew; `plot`: the picture's path relative to it, empty for none."""
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    _, marker, by_hand = written.partition(MARKER)
    path.write_text(page(document, plot) + MARKER + (by_hand if marker else "\n"), encoding="utf-8")


def page(document: Document, plot: str) -> str:
    """The page up to the marker."""
    everyone = ("on", "runtime")
    void = texts.void_text(document)
    parts = [
        "# Performance",
        f"**{void}.**" if document.steadiness.is_void else f"The run is {void}.",
        f"{texts.work_text(document)}. Made {document.date} by\n\n    {document.command}",
        METHOD,
        f"![time per token]({plot})" if plot else "",
        "## Speed\n\n" + _table((*everyone, *_titles(texts.SPEED)), texts.rows(document, texts.SPEED)),
        _section("Next to others", ("our artifact", "next to", "speed ours / theirs", "the same of CPU time"), texts.ratio_rows(document)),
        _section("Aims", ("", "wanted", "found", ""), texts.aim_rows(document)),
        "## Start and memory\n\n" + _table((*everyone, *_titles(texts.COSTS)), texts.rows(document, texts.COSTS)),
        "## Tokens\n\nHow many of the new tokens are those of the first runtime, before the first that differs, in every round:\n\n"
        + _table((*everyone, "equal"), texts.token_rows(document)),
        _section("Not measured", (*everyone, "why"), texts.missing_rows(document)),
        _remarks(document),
        "## Conversion\n\n" + _table(("target", "MB", "seconds by stage (the first ones are shared by all targets)"), _conversions(document)),
        "## Machine\n\n" + _table(("", ""), _machine(document)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{_table(columns, rows)}" if rows else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _titles(columns: Sequence[texts.Column]) -> list[str]:
    return [column.title for column in columns]


def _remarks(document: Document) -> str:
    found = {entry.remark: entry.label for entry in reversed(texts.measured(document)) if entry.remark}
    lines = [f"- {label}: {remark}." for remark, label in reversed(found.items())]
    return "## Remarks\n\n" + "\n".join(lines) if lines else ""


def _conversions(document: Document) -> list[list[str]]:
    return [
        [one.target, f"{one.bytes / MEGABYTE:.0f}", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one.seconds.items())]
        for one in document.conversions
        if not one.error
    ]


def _machine(document: Document) -> list[list[str]]:
    machine = document.machine
    rounds = ", ".join(texts.number(value) for value in document.bandwidth_by_round_gb_per_s)
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    return [
        ["processor", machine.processor],
        ["instruction sets", " ".join(machine.features)],
        ["usable threads", str(machine.usable_threads)],
        ["last cache", machine.last_cache or texts.NOTHING],
        ["memory", f"{machine.memory_mb} MB"],
        ["system", f"{machine.system}, Python {machine.python}"],
        ["load average before", f"{machine.load_average}"],
        ["memory bandwidth", f"{texts.spread_text(document.bandwidth_gb_per_s)} GB/s ({document.reader}); by round {rounds}"],
        ["libraries", libraries],
    ]
