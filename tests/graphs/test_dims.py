"""Symbolic sizes: what can be shown is shown, what cannot is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kexport.graphs.dims import Dim, broadcast, evaluate, product, quotient
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
