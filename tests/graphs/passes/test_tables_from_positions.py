"""tables_from_positions: per-token values of one start index become each row's own; what does not fit stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.passes import RemoveDeadCode, TablesFromPositions
from kexport.graphs.passes.classify_masks import START_INDEX

from tests.graphs.helpers import applied

X = np.random.default_rng(0).standard_normal((2, 3, 2, 4)).astype(np.float32)
FREQUENCIES = np.array([1.0, 0.1, 0.01, 0.001], np.float32)
TOTAL = 12


def angles(graph: Graph) -> str:
    """[sequence, 1, 4]: cosines of (start + t) * frequency."""
    tokens = graph.add_node("add", [graph.add_node("range", [], size="sequence"), START_INDEX])
    column = graph.add_node("reshape", [graph.add_node("cast", [tokens], dtype="float32")], shape=("sequence", 1, 1))
    return graph.add_node("cos", [graph.add_node("mul", [column, graph.add_constant(FREQUENCIES)])])


def rotated(value: Callable[[Graph], str], *, heads_first: bool = False) -> Graph:
    """x [batch, sequence, heads, 4], or heads in front of the sequence, times the value."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 2, 4))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.add_input(START_INDEX, "int32", ())
    x = "x"
    factor = value(graph)
    if heads_first:
        x = graph.add_node("transpose", ["x"], permutation=(0, 2, 1, 3))
        factor = graph.add_node("reshape", [factor], shape=("sequence", 4))
    graph.outputs["y"] = graph.add_node("mul", [x, factor])
    return graph


@pytest.mark.parametrize("heads_first", [False, True])
def test_1_each_row_takes_its_own_entries(heads_first: bool) -> None:
    """Equal where rows stand together; each row's own angles where they do not; the start index is gone."""
    graph = rotated(angles, heads_first=heads_first)
    after, result = applied(graph, TablesFromPositions())
    together = {"x": X, "positions": np.tile(np.arange(5, 8, dtype=np.int32), (2, 1)), START_INDEX: np.int32(5)}
    assert np.array_equal(run(after, together, total=TOTAL)["y"], run(graph, together)["y"])
    RemoveDeadCode()(after)
    assert result.changes == 1 and START_INDEX not in after.inputs
    positions = np.array([[0, 1, 2], [7, 8, 9]], np.int32)
    factor = np.cos(positions[..., None].astype(np.float32) * FREQUENCIES)
    expected = X * factor[:, :, None]
    got = run(after, {"x": X, "positions": positions}, total=TOTAL)["y"]
    np.testing.assert_allclose(got, expected.transpose(0, 2, 1, 3) if heads_first else expected, rtol=1e-6)


def test_2_a_value_that_is_no_function_of_the_position_stays() -> None:
    """Distances from the call's own first token: the same start would give every row another table."""

    def local(graph: Graph) -> str:
        tokens = graph.add_node("range", [], size="sequence")
        both = graph.add_node("mul", [graph.add_node("add", [tokens, START_INDEX]), tokens])
        return graph.add_node("reshape", [graph.add_node("cast", [both], dtype="float32")], shape=("sequence", 1, 1))

    after, result = applied(rotated(local), TablesFromPositions())
    assert result.changes == 0 and START_INDEX in after.inputs


def test_3_a_reader_that_is_not_elementwise_stays() -> None:
    """A product over the sequence mixes tokens."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 3, "sequence"))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.add_input(START_INDEX, "int32", ())
    graph.outputs["y"] = graph.add_node("matmul", ["x", graph.add_node("reshape", [angles(graph)], shape=("sequence", 4))])
    assert applied(graph, TablesFromPositions())[1].changes == 0


def test_4_any_function_of_the_position_is_a_table() -> None:
    """Also one that is computed over all keys on the way: the number of visible keys is the position + 1."""

    def mask(graph: Graph) -> str:
        tokens = graph.add_node("add", [graph.add_node("range", [], size="sequence"), START_INDEX])
        row = graph.add_node("reshape", [tokens], shape=("sequence", 1))
        visible = graph.add_node("le", [graph.add_node("range", [], size="total"), row])
        counted = graph.add_node("reduce_sum", [graph.add_node("cast", [visible], dtype="float32")], axes=(1,))
        return graph.add_node("add", [graph.add_node("reshape", [counted], shape=("sequence", 1, 1)), graph.add_constant(np.zeros(4, np.float32))])

    graph = rotated(mask)
    after, result = applied(graph, TablesFromPositions())
    assert result.changes == 1
    feeds = {"x": X, "positions": np.tile(np.arange(5, 8, dtype=np.int32), (2, 1)), START_INDEX: np.int32(5)}
    assert np.array_equal(run(after, feeds, total=TOTAL)["y"], run(graph, feeds, total=TOTAL)["y"])


def test_5_a_graph_without_a_start_is_left_alone() -> None:
    """Nothing to look for."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 2, 4))
    graph.outputs["y"] = graph.add_node("neg", ["x"])
    assert applied(graph, TablesFromPositions())[1].changes == 0
