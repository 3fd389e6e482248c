"""The interpreter binds sizes from its inputs, reads weights on demand, and changes caches in place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kexport.graphs.interpreter import bind_dims, new_caches, run
from kexport.graphs.ir import Graph, Slot
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import NamedNumbers, add_split, parameter


def two_inputs() -> Graph:
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 3))
    graph.add_input("y", "float32", ("batch", "sequence"))
    graph.outputs["z"] = graph.add_node("neg", ["x"])
    return graph


def test_sizes_come_from_the_inputs() -> None:
    """Every named dim is bound to what is fed."""
    assert bind_dims(two_inputs(), {"x": np.zeros((2, 3)), "y": np.zeros((2, 5))}) == {"batch": 2, "sequence": 5}


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [((2, 4), (2, 5), "x"), ((2, 3), (4, 5), "batch"), ((2, 3, 1), (2, 5), "x"), ((2, 3), None, "y")],
)
def test_an_input_of_another_shape_is_refused(x: tuple[int, ...], y: tuple[int, ...] | None, what: str) -> None:
    """Fixed sizes, sizes that contradict each other, ranks, and inputs left out."""
    feeds = {"x": np.zeros(x, np.float32)} | ({"y": np.zeros(y, np.float32)} if y else {})
    with pytest.raises(InternalError, match=rf"KX906.*{what}"):
        run(two_inputs(), feeds)


def test_a_weight_without_a_source_is_named() -> None:
    """The error says which one."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 2))
    graph.outputs["y"] = graph.add_node("linear", ["x", parameter(graph, "some.kernel", 2, 2)])
    with pytest.raises(InternalError, match=r"KX906.*some\.kernel"):
        run(graph, {"x": np.zeros((1, 2), np.float32)})


def test_each_weight_is_read_once_and_unused_ones_never() -> None:
    """Two readers share one read."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 2))
    w = parameter(graph, "w", 2, 2)
    parameter(graph, "unused", 2, 2)
    graph.outputs["y"] = graph.add_node("linear", [graph.add_node("linear", ["x", w]), w])
    numbers = NamedNumbers.of(graph)
    got = run(graph, {"x": np.eye(2, dtype=np.float32)}, numbers)["y"]
    assert numbers.reads == ["w"]
    w_numbers = NamedNumbers.of(graph).read("w")
    np.testing.assert_allclose(got, w_numbers @ w_numbers, rtol=1e-5)


def test_new_caches_have_each_slots_own_shape() -> None:
    """Keys and values may differ in size, slots in dtype."""
    graph = Graph("g", slots={"self.0": Slot("self", 2, 4, 6), "self.1": Slot("self", 1, 3, 3, "bfloat16")})
    caches = new_caches(graph, 5, 7)
    assert [part.shape for part in caches["self.0"]] == [(5, 7, 2, 4), (5, 7, 2, 6)]
    assert caches["self.1"][0].dtype == ml_dtypes.bfloat16 and not caches["self.0"][0].any()


def test_caches_are_changed_in_place_at_each_rows_positions() -> None:
    """Two rows at different positions; the rest of the cache is untouched."""
    graph = Graph("g", slots={"self.0": Slot("self", 1, 2, 2)})
    graph.add_input("x", "float32", ("batch", "sequence", 1, 2))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.outputs["keys"] = graph.add_node("cache_write", ["x", "positions"], slot="self.0", part=0)
    graph.outputs["values"] = graph.add_node("cache_read", [], slot="self.0", part=1)
    caches = new_caches(graph, 2, 4)
    x = np.arange(1, 5, dtype=np.float32).reshape(2, 1, 1, 2)
    outputs = run(graph, {"x": x, "positions": np.array([[3], [0]], np.int32)}, None, caches)
    expected = np.zeros((2, 4, 1, 2), np.float32)
    expected[0, 3], expected[1, 0] = x[0, 0], x[1, 0]
    assert np.array_equal(caches["self.0"][0], expected) and np.array_equal(outputs["keys"], expected)
    assert not caches["self.0"][1].any() and outputs["values"].shape == (2, 4, 1, 2)
    outputs["keys"][...] = 9
    assert np.array_equal(caches["self.0"][0], expected), "an output must not be a window into the cache"


def test_dims_no_input_carries_can_be_given() -> None:
    """`total` comes from the caches, others from the caller."""
    graph = Graph("g")
    graph.outputs["r"] = graph.add_node("range", [], size="anything")
    assert run(graph, {}, None, None, anything=4)["r"].tolist() == [0, 1, 2, 3]
    with pytest.raises(InternalError, match=r"KX901.*anything"):
        run(graph, {})


def test_a_node_may_have_several_outputs() -> None:
    """split gives one value a part."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 5))
    first, second = add_split(graph, "x", 1, (2, 3))
    graph.outputs.update(a=second, b=first)
    outputs = run(graph, {"x": np.arange(5, dtype=np.float32)[None]})
    assert outputs["a"].tolist() == [[2, 3, 4]] and outputs["b"].tolist() == [[0, 1]]
