"""Symbolic sizes: what can be shown is shown, what cannot is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kexport.graphs.dims import Dim, broadcast, evaluate, in_pieces, names_in, pieces, product, quotient
from kexport.runtime.contract.errors import InternalError

NAMES = ("batch", "sequence", "total")
SIZES = {"batch": 3, "sequence": 5, "total": 7}
DIMS = st.lists(st.one_of(st.integers(0, 9), st.sampled_from(NAMES)), max_size=5)


@given(dims=DIMS)
def test_a_product_has_the_size_of_its_factors(dims: list[Dim]) -> None:
    """Evaluated, a product is the product of the evaluated dims."""
    assert evaluate(product(dims), SIZES) == math.prod(evaluate(dim, SIZES) for dim in dims)


@given(dims=DIMS)
def test_a_product_does_not_depend_on_the_order(dims: list[Dim]) -> None:
    """Equal products are equal dims: that is how reshapes are checked."""
    assert product(dims) == product(reversed(dims)) == product([product(dims[:2]), product(dims[2:])])


@given(left=DIMS, right=DIMS)
def test_a_quotient_undoes_a_product(left: list[Dim], right: list[Dim]) -> None:
    """(a * b) / b is a, unless one is zero."""
    whole, part = product(left), product(right)
    if whole != 0 and part != 0:
        assert quotient(product([whole, part]), part) == whole


@pytest.mark.parametrize(("dim", "by"), [(7, 2), ("batch", 2), ("batch", "sequence"), ("2*batch", 3), (4, 0), ("batch", "batch*batch")])
def test_a_quotient_that_is_not_exact_is_none(dim: Dim, by: Dim) -> None:
    """Nothing is rounded, and nothing is assumed of a name."""
    assert quotient(dim, by) is None


def test_an_unbound_name_is_named() -> None:
    """The error says which name has no size."""
    with pytest.raises(InternalError, match=r"KX901.*sequence"):
        evaluate("2*batch*sequence", {"batch": 2})


@given(length=st.integers(1, 40), size=st.integers(1, 12))
def test_pieces_hold_a_name(length: int, size: int) -> None:
    """As many as are needed and no more, of a number at once, of a name when it is bound; in a product, too."""
    count = pieces("sequence", size)
    assert pieces(length, size) == evaluate(count, {"sequence": length}) == -(-length // size)
    whole = product((count, size, "batch"))
    assert evaluate(whole, {"sequence": length, "batch": 3}) == 3 * size * -(-length // size)
    assert quotient(whole, count) == product((size, "batch")) and names_in(whole) == ["batch", "sequence"]
    assert in_pieces(str(count)) == ("sequence", size) and in_pieces("sequence") is None


def test_a_product_is_not_cut_into_pieces() -> None:
    """Rounding up twice is not rounding up once."""
    for dim in ("2*sequence", "batch*sequence", "sequence/4"):
        with pytest.raises(InternalError, match="KX901"):
            pieces(dim, 4)


@given(
    left=st.lists(st.sampled_from([1, 4, "batch", "total"]), max_size=4),
    right=st.lists(st.sampled_from([1, 4, "batch", "total"]), max_size=4),
)
def test_broadcasting_is_numpys(left: list[Dim], right: list[Dim]) -> None:
    """Where a shape is given it is numpy's; where none is, the dims differ."""
    sizes = {"batch": 3, "total": 7}
    shape = broadcast(tuple(left), tuple(right))
    numbers = [tuple(evaluate(dim, sizes) for dim in dims) for dims in (left, right)]
    if shape is None:
        with pytest.raises(ValueError, match="broadcast"):
            np.broadcast_shapes(*numbers)
    else:
        assert tuple(evaluate(dim, sizes) for dim in shape) == np.broadcast_shapes(*numbers)
