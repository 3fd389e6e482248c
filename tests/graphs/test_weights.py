"""Weights are expressions: checked without a byte, read one at a time, and they give numpy's numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Parameter, Weight, concatenate
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import NamedNumbers

W = Parameter((2, 3), "float32", "w")
V = Parameter((2, 3), "float32", "v")
HALF = Parameter((2, 3), "bfloat16", "h")
SOURCE_SHAPES = {"w": ((2, 3), "float32"), "v": ((2, 3), "float32"), "h": ((2, 3), "bfloat16")}


def source() -> NamedNumbers:
    return NamedNumbers(dict(SOURCE_SHAPES))


NUMBERS = {name: source().read(name) for name in SOURCE_SHAPES}
EXPRESSIONS: list[tuple[Weight, Any]] = [
    (W, NUMBERS["w"]),
    (W.transpose((1, 0)), NUMBERS["w"].T),
    (W.reshape((3, 2)), NUMBERS["w"].reshape(3, 2)),
    (W.transpose((1, 0)).reshape((6,)), NUMBERS["w"].T.reshape(6)),
    (W.cast("float16"), NUMBERS["w"].astype(np.float16)),
    (W.cast("bfloat16"), NUMBERS["w"].astype(ml_dtypes.bfloat16)),
    (W.plus(1.0), NUMBERS["w"] + np.float32(1)),
    (HALF.plus(1.0), NUMBERS["h"] + ml_dtypes.bfloat16(1)),
    (W.pad(((1, 0), (0, 2))), np.pad(NUMBERS["w"], ((1, 0), (0, 2)))),
    (W.slice(1, 1, 3), NUMBERS["w"][:, 1:3]),
    (W.slice(1, 0, 3, 2).transpose((1, 0)), NUMBERS["w"][:, ::2].T),
    (concatenate((W, V), 0), np.concatenate([NUMBERS["w"], NUMBERS["v"]], 0)),
    (concatenate((W, V, W.plus(1.0)), 1), np.concatenate([NUMBERS["w"], NUMBERS["v"], NUMBERS["w"] + np.float32(1)], 1)),
    (
        concatenate((W.transpose((1, 0)), V.transpose((1, 0))), 1).pad(((0, 0), (1, 1))),
        np.pad(np.concatenate([NUMBERS["w"].T, NUMBERS["v"].T], 1), ((0, 0), (1, 1))),
    ),
]


@pytest.mark.parametrize(("weight", "expected"), EXPRESSIONS, ids=[weight.label for weight, _ in EXPRESSIONS])
def test_an_expression_gives_numpys_numbers(weight: Weight, expected: Any) -> None:
    """Shape, dtype and size are known before, numbers are numpy's after."""
    assert (weight.shape, weight.nbytes) == (expected.shape, expected.nbytes)
    got = weight.materialize(source())
    assert got.dtype == expected.dtype and np.array_equal(got, expected)


@pytest.mark.parametrize(("weight", "expected"), EXPRESSIONS, ids=[weight.label for weight, _ in EXPRESSIONS])
def test_what_is_stacked_stands_one_behind_the_other(weight: Weight, expected: Any) -> None:
    """The bytes of a weight are those of the weights it is stacked of, in their order."""
    parts = weight.stacked()
    assert b"".join(np.ascontiguousarray(part.materialize(source())).tobytes() for part in parts) == np.ascontiguousarray(expected).tobytes()


def test_packed_columns_are_stacked_rows_once_they_are_turned() -> None:
    """As a product's packed matrix is stored: turned, then rounded. Packed columns that are not turned are one piece."""
    packed = concatenate((W, V), 1)
    assert packed.transpose((1, 0)).cast("float16").stacked() == tuple(part.transpose((1, 0)).cast("float16") for part in (W, V))
    assert packed.stacked() == (packed,) and concatenate((W, V), 0).stacked() == (W, V)


def test_building_reads_nothing() -> None:
    """Shapes are checked on the expression alone."""
    numbers = source()
    weight = concatenate((W, V), 0).transpose((1, 0)).cast("float16")
    assert weight.shape == (3, 4) and numbers.reads == []
    weight.materialize(numbers)
    assert numbers.reads == ["w", "v"] == [parameter.name for parameter in weight.parameters()]


def test_what_changes_nothing_gives_the_weight_itself() -> None:
    """So that a tied weight stays one weight."""
    assert (
        W.transpose((0, 1)) is W and W.reshape((2, 3)) is W and W.cast("float32") is W and W.plus(0.0) is W and W.pad(((0, 0), (0, 0))) is W
    )
    assert W.transpose((1, 0)).transpose((1, 0)) == W and W.reshape((6,)).reshape((2, 3)) == W


def test_chains_of_layout_collapse() -> None:
    """Two transposes are one, two reshapes are one."""
    cube = Parameter((2, 3, 4), "float32", "c")
    assert cube.transpose((1, 2, 0)).transpose((1, 2, 0)) == cube.transpose((2, 0, 1))
    assert W.reshape((6,)).reshape((3, 2)) == W.reshape((3, 2))


def test_equality_goes_by_name_and_transforms() -> None:
    """Two captures of one model have equal weights; another name, shape or transform differs."""
    assert Parameter((2, 3), "float32", "w").transpose((1, 0)) == W.transpose((1, 0)) and hash(W) == hash(Parameter((2, 3), "float32", "w"))
    different = [W, V, W.transpose((1, 0)), W.reshape((3, 2)), W.plus(1.0), W.plus(2.0), concatenate((W, V), 0), concatenate((V, W), 0)]
    assert len(set(different)) == len(different) == len({weight.label for weight in different})


@pytest.mark.parametrize(
    "build",
    [
        lambda: W.reshape((4, 2)),
        lambda: W.slice(1, 1, 4),
        lambda: W.slice(1, 2, 2),
        lambda: concatenate((W, Parameter((3, 3), "float32", "x")), 1),
        lambda: concatenate((W, HALF), 0),
        lambda: concatenate((W, Parameter((2,), "float32", "x")), 0),
    ],
)
def test_shapes_that_do_not_fit_are_refused_at_once(build: Any) -> None:
    """Before any byte is read."""
    with pytest.raises(InternalError, match="KX902"):
        build()


@pytest.mark.parametrize("wrong", [((3, 2), "float32"), ((2, 3), "float16"), ((6,), "float32")])
def test_a_source_that_breaks_its_promise_is_caught(wrong: tuple[tuple[int, ...], str]) -> None:
    """Another shape or dtype than the graph was captured with never reaches a file."""
    with pytest.raises(InternalError, match=r"KX902.*w"):
        W.materialize(NamedNumbers({"w": wrong}))


def test_joining_holds_one_operand_at_a_time() -> None:
    """The peak is the result and one operand: an operand's array is free when the next is read."""
    import weakref

    alive: list[Any] = []
    most = 0

    class Watching:
        def read(self, name: str) -> Any:
            nonlocal most
            array = np.ones((2, 3), np.float32)
            alive.append(weakref.ref(array))
            most = max(most, sum(reference() is not None for reference in alive))
            return array

    concatenate(tuple(Parameter((2, 3), "float32", f"p{index}") for index in range(6)), 0).materialize(Watching())
    assert most <= 2


def test_a_graph_holds_a_weight_once() -> None:
    """The same reference is one value; two weights under one label are refused, not mixed up."""
    graph = Graph("g")
    assert graph.add_weight(W) == graph.add_weight(Parameter((2, 3), "float32", "w")) and len(graph.weights) == 1
    graph.add_weight(W.plus(1.0))
    with pytest.raises(InternalError, match=r"KX902.*w.plus1"):
        graph.add_weight(W.plus(1.0000001))
