"""The arithmetic of a comparison: spreads, ratios, the void rule."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VOID_ABOVE = 0.15  # the run counts for nothing if the memory's speed varied by more between rounds


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Steadiness:
    """How the memory bandwidth behaved. `variation`: (fastest round - slowest) / slowest; `is_void`: that is above `limit`."""

    variation: float
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


def steadiness(bandwidth_by_round: Mapping[int, Sequence[float]], limit: float = VOID_ABOVE) -> Steadiness:
    """The void rule, over the median bandwidth of each round. One round varies by nothing."""
    medians = [statistics.median(values) for values in bandwidth_by_round.values()]
    variation = max(medians) / min(medians) - 1
    return Steadiness(variation, limit, variation > limit)


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two runs share before they differ."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
