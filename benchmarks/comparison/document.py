"""The result of a comparison as one record: what the JSON file holds, and what table, plot and page are made from."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rivals.base import PRESET

from comparison.figures import Spread, Steadiness, common_start, speed_ratio, spread, steadiness
from comparison.machine import Machine
from comparison.rounds import Outcome, Result

FORMAT = 1
FLOOR_TARGETS = ("onnx", "openvino", "tflite")  # whose decode the memory alone should limit; TensorFlow's executor has costs of its own
LEAST_SHARE_OF_FLOOR = 0.90
LEAST_SPEED_RATIO = 0.97  # "no slower than the vendor's runtime", with what two runs of the same thing differ by
LEAST_ROUNDS = 7  # fewer show too little of how figures spread
GIGABYTE, MILLISECONDS = 1e9, 1e3
DIRECTORIES = re.compile(r"(?<!\w)/(?:[\w.+@-]+/)+")


@dataclass(frozen=True)
class Work:
    """What was asked of everyone, one row."""

    prompt_tokens: int
    new_tokens: int
    threads: int
    rounds: int


@dataclass(frozen=True)
class Conversion:
    """How an artifact came to be, or why not. `seconds`: by stage; the first stages are shared by all targets."""

    target: str
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    step_bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class Figures:
    """A contestant's spreads over the rounds. `floor_ms_per_token`: bytes of a step / bandwidth around the visit; None where those are unknown."""

    import_s: Spread
    load_s: Spread
    cold_first_token_ms: Spread
    first_token_ms: Spread
    ms_per_token: Spread
    cpu_ms_per_token: Spread
    peak_rss_mb: Spread
    peak_anonymous_mb: Spread
    floor_ms_per_token: Spread | None
    share_of_floor: Spread | None


@dataclass(frozen=True)
class Entry:
    """A contestant with its figures and rounds. `same_tokens`: how many of its first tokens are those of the first contestant that ran."""

    rival: str
    target: str
    label: str
    is_ours: bool
    remark: str
    error: str
    same_tokens: int
    figures: Figures | None
    rounds: tuple[Result, ...]


@dataclass(frozen=True)
class Ratio:
    """Our speed next to a rival's: above 1 we are faster. `cpu`: the same of processor time."""

    target: str
    rival: str
    label: str
    rival_target: str
    wall: Spread
    cpu: Spread


@dataclass(frozen=True)
class Aim:
    """What issue 4 asks for, and whether it was reached."""

    what: str
    wanted: float
    found: float
    is_reached: bool


@dataclass(frozen=True)
class Document:
    """Everything."""

    format: int
    date: str
    command: str
    work: Work
    machine: Machine
    parameters: int
    steadiness: Steadiness
    bandwidth_gb_per_s: Spread
    bandwidth_by_round_gb_per_s: tuple[float, ...]
    reader: str
    conversions: tuple[Conversion, ...]
    entries: tuple[Entry, ...]
    ratios: tuple[Ratio, ...]
    aims: tuple[Aim, ...]


def make_document(
    outcomes: Sequence[Outcome], work: Work, machine: Machine, conversions: Sequence[Conversion], *, parameters: int, date: str, command: str
) -> Document:
    """Put the outcomes together. Raises ValueError if nobody ran."""
    results = [result for outcome in outcomes for result in outcome.results]
    if not results:
        raise ValueError("no contestant ran: " + "; ".join(f"{one.contestant.label}: {one.error}" for one in outcomes))
    step_bytes = {one.target: one.step_bytes for one in conversions if one.step_bytes}
    step_bytes[PRESET] = min(step_bytes.values(), default=0)  # KerasHub must read the same numbers: the least that any artifact reads
    entries = tuple(_entry(outcome, step_bytes.get(outcome.contestant.target, 0), results[0].visit.tokens) for outcome in outcomes)
    ratios = tuple(_ratios(entries))
    bandwidths = [{result.number: _bandwidth(result) for result in outcome.results} for outcome in outcomes]
    return Document(
        format=FORMAT,
        date=date,
        command=command,
        work=work,
        machine=machine,
        parameters=parameters,
        steadiness=steadiness(bandwidths),
        bandwidth_gb_per_s=spread([_bandwidth(result) / GIGABYTE for result in results]),
        bandwidth_by_round_gb_per_s=_medians_by_round(results),
        reader=results[0].visit.reader,
        conversions=tuple(conversions),
        entries=entries,
        ratios=ratios,
        aims=tuple(_aims(entries, ratios, work.new_tokens)),
    )


def read_document(path: Path) -> Document:
    """A document from its JSON file. Raises msgspec.ValidationError for a file that is none."""
    return msgspec.json.decode(path.read_bytes(), type=Document)


def write_document(path: Path, document: Document) -> None:
    """Write the JSON file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def without_directories(text: str) -> str:
    """`text` with the directories of absolute paths left out: they say something of this machine only."""
    return DIRECTORIES.sub("", text)


def _bandwidth(result: Result) -> float:
    """Bytes per second around a visit."""
    return statistics.mean(result.visit.bandwidths)


def _medians_by_round(results: Sequence[Result]) -> tuple[float, ...]:
    numbers = sorted({result.number for result in results})
    return tuple(statistics.median(_bandwidth(one) for one in results if one.number == number) / GIGABYTE for number in numbers)


def _entry(outcome: Outcome, step_bytes: int, tokens: Sequence[int]) -> Entry:
    one, results = outcome.contestant, outcome.results
    return Entry(
        rival=one.rival,
        target=one.target,
        label=one.label,
        is_ours=one.is_ours,
        remark=one.remark,
        error=without_directories(outcome.error),
        same_tokens=min((common_start(tokens, result.visit.tokens) for result in results), default=0),
        figures=_figures(results, step_bytes) if results else None,
        rounds=results,
    )


def _figures(results: Sequence[Result], step_bytes: int) -> Figures:
    def over(value: Callable[[Result], float]) -> Spread:
        return spread([value(result) for result in results])

    def floor(result: Result) -> float:
        return step_bytes / _bandwidth(result) * MILLISECONDS

    return Figures(
        import_s=over(lambda result: result.visit.import_s),
        load_s=over(lambda result: result.visit.load_s),
        cold_first_token_ms=over(lambda result: result.visit.cold_first_token_ms),
        first_token_ms=over(lambda result: result.visit.first_token_ms),
        ms_per_token=over(lambda result: result.visit.ms_per_token),
        cpu_ms_per_token=over(lambda result: result.visit.cpu_ms_per_token),
        peak_rss_mb=over(lambda result: result.visit.peak_rss_mb),
        peak_anonymous_mb=over(lambda result: result.peak_anonymous_mb),
        floor_ms_per_token=over(floor) if step_bytes else None,
        share_of_floor=over(lambda result: floor(result) / result.visit.ms_per_token) if step_bytes else None,
    )


def _ratios(entries: Sequence[Entry]) -> list[Ratio]:
    """Ours on each target next to everyone on the same artifact, and next to KerasHub."""
    return [
        Ratio(
            ours.target,
            rival.rival,
            rival.label,
            rival.target,
            speed_ratio(_by_round(ours, "ms_per_token"), _by_round(rival, "ms_per_token")),
            speed_ratio(_by_round(ours, "cpu_ms_per_token"), _by_round(rival, "cpu_ms_per_token")),
        )
        for ours in entries
        for rival in entries
        if ours.is_ours and not rival.is_ours and rival.target in (ours.target, PRESET) and _share_a_round(ours, rival)
    ]


def _by_round(entry: Entry, figure: str) -> Mapping[int, float]:
    return {result.number: getattr(result.visit, figure) for result in entry.rounds}


def _share_a_round(one: Entry, other: Entry) -> bool:
    return bool({result.number for result in one.rounds} & {result.number for result in other.rounds})


def _aims(entries: Sequence[Entry], ratios: Sequence[Ratio], new_tokens: int) -> list[Aim]:
    shares = [
        _aim(f"{entry.target}: share of the bandwidth floor", LEAST_SHARE_OF_FLOOR, entry.figures.share_of_floor.median)
        for entry in entries
        if entry.is_ours and entry.target in FLOOR_TARGETS and entry.figures and entry.figures.share_of_floor
    ]
    equal = {(entry.target, entry.rival): entry.same_tokens for entry in entries}
    speeds = [
        _aim(_against(ratio, equal[ratio.rival_target, ratio.rival], new_tokens), LEAST_SPEED_RATIO, ratio.wall.median)
        for ratio in ratios
        if ratio.rival_target != PRESET and ratio.target in FLOOR_TARGETS
    ]
    return shares + speeds


def _against(ratio: Ratio, equal: int, new_tokens: int) -> str:
    """A rival that gives other tokens does other arithmetic: the line says so."""
    other = "" if equal == new_tokens else f" (gives other tokens: {equal} of {new_tokens} equal)"
    return f"{ratio.target}: speed next to {ratio.label}{other}"


def _aim(what: str, wanted: float, found: float) -> Aim:
    return Aim(what, wanted, found, found >= wanted)
