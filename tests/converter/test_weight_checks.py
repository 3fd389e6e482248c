"""Weights that are NaN or infinite, and tokenizers that are too large, are refused with the name of what is wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kexport.converter.checks import check_finite, check_tokenizer_fits
from kexport.runtime.contract.errors import InvalidInputError

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found_wherever_it_stands(dtype: type, value: float) -> None:
    """A single NaN or infinity in a tensor is enough, and the message says where it is."""
    for position in [(0, 0), (3, 4), (6, 8)]:
        array = np.arange(63, dtype=np.float32).reshape(7, 9).astype(dtype)
        array[position] = value
        with pytest.raises(InvalidInputError, match="dense/kernel") as caught:
            check_finite("dense/kernel", array)
        assert caught.value.code == "KX425"
        assert str(position) in caught.value.message


@pytest.mark.parametrize("dtype", [*DTYPES, np.int8, np.uint8, np.bool_])
def test_finite_tensors_pass(dtype: type) -> None:
    """Ordinary values of every stored dtype pass, the largest of the dtype and empty tensors included."""
    check_finite("w", np.ones((3, 4), dtype))
    check_finite("w", np.zeros((0, 4), dtype))
    check_finite("w", np.ones((), dtype))
    if dtype in DTYPES:
        check_finite("w", np.array([ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min], dtype))


def test_the_highest_id_needs_a_row_in_the_embedding() -> None:
    """Id 9 fits a vocabulary of 10, id 10 does not."""
    check_tokenizer_fits(9, 10, "vocabulary.json")
    with pytest.raises(InvalidInputError, match="vocabulary.json") as caught:
        check_tokenizer_fits(10, 10, "vocabulary.json")
    assert caught.value.code == "KX432"
