"""The demo's yardsticks, on texts whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from text_measures import distinct_share, pack_rows, top_two_gaps, unigram_loss


def test_rows_overlap_by_the_target() -> None:
    """The last id of a row is the first of the next, so that every token but the first is a target exactly once."""
    rows = pack_rows([[5, 6, 7], [8, 9]], length=4, start=1, end=2)
    assert rows.tolist() == [[1, 5, 6, 7, 2], [2, 1, 8, 9, 2]]
    rows = pack_rows([[5, 6, 7], [8, 9]], length=2, start=1, end=2)
    assert rows.tolist() == [[1, 5, 6], [6, 7, 2], [2, 1, 8], [8, 9, 2]]


def test_too_little_text_is_an_error() -> None:
    """A stream shorter than a row is refused rather than dropped."""
    with pytest.raises(ValueError, match="do not fill a row"):
        pack_rows([[5]], length=8, start=1, end=2)


def test_unigram_loss_is_the_entropy() -> None:
    """Four equally frequent tokens cost log 4 each; one token costs nothing."""
    assert unigram_loss(np.array([[3, 4], [5, 6]], dtype=np.int32)) == pytest.approx(math.log(4))
    assert unigram_loss(np.array([3, 3, 3], dtype=np.int32)) == 0


def test_a_loop_has_a_low_distinct_share() -> None:
    """A text that repeats every 4 tokens has 4 distinct 4-grams however long it is; one without repeats has only distinct ones."""
    assert distinct_share([1, 2, 3, 4] * 25, 4) == 4 / 97
    assert distinct_share(list(range(50)), 4) == 1
    with pytest.raises(ValueError, match="hold no 4-gram"):
        distinct_share([1, 2], 4)


def test_top_two_gap() -> None:
    """The gap is between the largest and the second largest, wherever they are; a tie is 0."""
    assert top_two_gaps(np.array([[1, 5, 3], [2, 0, 2]], dtype=np.float32)).tolist() == [2, 0]
