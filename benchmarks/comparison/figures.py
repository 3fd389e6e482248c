"""The arithmetic of a comparison: spreads, ratios, the void rule."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VOID_ABOVE = 0.15  # the run counts for nothing if the memory's speed varied by more


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Steadiness:
    """How the memory bandwidth behaved: (fastest - slowest) / slowest, of the rounds' medians and of the contestants' medians.

    The second sees what the first cannot: a machine that changes within every round, so that contestants did not have the same. `is_void`: one of
    them is above `limit`.
    """

    between_rounds: float
    between_contestants: float
    limit: float
    is_void: bool


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def speed_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread:
    """How fast we are next to a rival, from times by round: above 1 we are faster.

    The median is the ratio of the medians (theirs / ours); least and greatest are of the rounds that both have, each measured within one round.
    Raises ValueError if they share no round.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no round has both")
    by_round = [theirs[number] / ours[number] for number in shared]
    medians = statistics.median(theirs.values()) / statistics.median(ours.values())
    return Spread(medians, min(by_round), max(by_round))


def steadiness(bandwidths: Sequence[Mapping[int, float]], limit: float = VOID_ABOVE) -> Steadiness:
    """The void rule, over the bandwidth by round that each contestant had."""
    rounds = sorted({number for one in bandwidths for number in one})
    between_rounds = variation([statistics.median(one[number] for one in bandwidths if number in one) for number in rounds])
    between_contestants = variation([statistics.median(one.values()) for one in bandwidths if one])
    return Steadiness(between_rounds, between_contestants, limit, max(between_rounds, between_contestants) > limit)


def variation(values: Sequence[float]) -> float:
    """(greatest - least) / least."""
    return max(values) / min(values) - 1


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two runs share before they differ."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
