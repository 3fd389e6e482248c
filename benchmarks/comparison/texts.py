"""How figures are written, on the screen and on the page alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rivals.base import PRESET

from comparison.document import LEAST_ROUNDS, Aim, Document, Entry, Figures
from comparison.figures import Spread

NOTHING = "-"
ON_PRESET = "KerasHub"
ONE_DECIMAL_FROM = 10.0
NO_DECIMAL_FROM = 1000.0
PERCENT = 100


def number(value: float) -> str:
    """Three or four digits."""
    if value >= NO_DECIMAL_FROM:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= ONE_DECIMAL_FROM else f"{value:.2f}"


def spread_text(value: Spread | None) -> str:
    """`median (min-max)`."""
    return f"{number(value.median)} ({number(value.min)}-{number(value.max)})" if value else NOTHING


def share_text(value: Spread | None) -> str:
    """The same in percent."""
    if not value:
        return NOTHING
    median, least, most = (round(part * PERCENT) for part in (value.median, value.min, value.max))
    return f"{median} % ({least}-{most})"


def place_text(target: str) -> str:
    """What a contestant ran on."""
    return ON_PRESET if target == PRESET else target


@dataclass(frozen=True)
class Column:
    """A column of the main table: its title, and which figure it shows."""

    title: str
    figure: str
    is_share: bool = False

    def cell(self, figures: Figures) -> str:
        """The figure's text."""
        value: Spread | None = getattr(figures, self.figure)
        return share_text(value) if self.is_share else spread_text(value)


SPEED = (
    Column("ms/token", "ms_per_token"),
    Column("CPU ms/token", "cpu_ms_per_token"),
    Column("floor ms", "floor_ms_per_token"),
    Column("share of floor", "share_of_floor", is_share=True),
    Column("first token ms", "first_token_ms"),
)
COSTS = (
    Column("first token, cold ms", "cold_first_token_ms"),
    Column("load s", "load_s"),
    Column("import s", "import_s"),
    Column("peak RSS MB", "peak_rss_mb"),
    Column("peak anonymous MB", "peak_anonymous_mb"),
)


def measured(document: Document) -> list[Entry]:
    """The contestants with figures."""
    return [entry for entry in document.entries if entry.figures]


def rows(document: Document, columns: Iterable[Column]) -> list[list[str]]:
    """`columns` for everyone measured, behind what they ran on and what they are."""
    listed = list(columns)
    return [
        [place_text(entry.target), entry.label, *(column.cell(entry.figures) for column in listed)]
        for entry in document.entries
        if entry.figures
    ]


def token_rows(document: Document) -> list[list[str]]:
    """How many of the new tokens each shares with the first contestant."""
    wanted = document.work.new_tokens
    return [[place_text(entry.target), entry.label, f"{entry.same_tokens}/{wanted}"] for entry in measured(document)]


def ratio_rows(document: Document) -> list[list[str]]:
    """Our speed next to the rivals'."""
    return [
        [ratio.target, ratio.label, spread_text(ratio.wall), spread_text(ratio.cpu)]
        for ratio in document.ratios
    ]


def aim_rows(document: Document) -> list[list[str]]:
    """What was wanted, found, and whether that is enough; a void run and one of few rounds prove nothing."""
    return [[aim.what, f">= {number(aim.wanted)}", number(aim.found), _verdict(document, aim)] for aim in document.aims]


def _verdict(document: Document, aim: Aim) -> str:
    if document.steadiness.is_void:
        return "void"
    if document.work.rounds < LEAST_ROUNDS:
        return "too few rounds"
    return "reached" if aim.is_reached else "missed"


def missing_rows(document: Document) -> list[list[str]]:
    """Who was not measured to the end, and why; targets that were not converted."""
    failed = [[one.target, "conversion", one.error] for one in document.conversions if one.error]
    return failed + [[place_text(entry.target), entry.label, entry.error] for entry in document.entries if entry.error]


def void_text(document: Document) -> str:
    """The verdict on the machine's steadiness."""
    steadiness = document.steadiness
    rounds, contestants, limit = (round(part * PERCENT) for part in (steadiness.between_rounds, steadiness.between_contestants, steadiness.limit))
    varied = f"the memory bandwidth varied by {rounds} % between rounds and by {contestants} % between contestants ({limit} % are allowed)"
    return f"VOID: {varied}: these figures prove nothing" if steadiness.is_void else f"valid: {varied}"


def work_text(document: Document) -> str:
    """What was measured, in one line."""
    work = document.work
    return (
        f"{document.parameters / 1e6:.0f} M parameters, float32, {work.prompt_tokens}-token prompt, {work.new_tokens} new tokens, "
        f"{work.threads} threads, {work.rounds} {'round' if work.rounds == 1 else 'rounds'}"
    )
