"""Arrays of a recorded loader: what numpy makes of real numbers comes out of them, and nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # the package that holds them imports Keras
NUMBERS = np.random.default_rng(0).integers(0, 256, (3, 4, 2)).astype(np.uint8)


def _masked(array: Any) -> Any:
    """As a converter unpacks numbers of 4 bits: two formulas, chosen number by number."""
    pairs = np.stack([array & 0xF, (array >> 4) & 0xF], axis=-1).reshape(3, 4, 4)
    large = pairs > 7
    values = np.empty_like(pairs, dtype=np.float32)
    values[large] = 2.0 ** (pairs[large].astype(np.float32) - 8.0) * 3
    values[~large] = -pairs[~large] / np.float32(4)
    return np.transpose(values * np.repeat(array[..., :1], 4, axis=2), (0, 2, 1))


@pytest.mark.parametrize(
    "formula",
    [
        _masked,
        lambda array: 1 - array.astype(np.float32),
        lambda array: np.concatenate([array, array + 1], axis=1)[:, 2:].T,
        lambda array: array[np.array([2, 0])],
        lambda array: array.reshape(-1, 2) // 3,
    ],
)
def test_a_formula_gives_what_it_gives_on_real_numbers(formula: Callable[[Any], Any]) -> None:
    """Shape and dtype are right before anything is read; the numbers afterwards; the source stays as it was."""
    from kexport.graphs.capture.lazy_array import LazyArray

    reads: list[int] = []

    def read() -> Any:
        reads.append(1)
        return NUMBERS.copy()

    expected = formula(NUMBERS)
    result = formula(LazyArray(NUMBERS.shape, NUMBERS.dtype, read, "test"))
    assert not reads and (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result.materialize(), expected)
    np.testing.assert_array_equal(result.materialize(), expected)
    assert reads
