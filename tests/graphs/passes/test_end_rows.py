"""end_rows: a row that ends in front of the graph's length gives what it gives alone; what would mix its tokens is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.passes import EndRows
from kexport.graphs.passes.end_rows import rows_mixed

from tests.graphs.helpers import NamedNumbers, applied, parameter

WIDTH, HEADS, VOCABULARY = 8, 2, 11
IDS = np.array([[3, 7, 1, 10, 2]], np.int32)
Build = Callable[[Graph, str], str]


def whole_rows(build: Build, *, encoder: Build | None = None) -> Graph:
    """A graph over one row: embedded tokens through `build`; those of an encoder through `encoder`."""
    graph = Graph("backbone")
    table = parameter(graph, "table", VOCABULARY, WIDTH)
    sides = (("token_ids", "sequence", build), ("encoder_token_ids", "encoder_sequence", encoder))
    for name, length, body in sides:
        if body is not None:
            graph.add_input(name, "int32", (1, length))
            graph.outputs[f"{name}_output"] = body(graph, graph.add_node("embedding", [table, name]))
    return graph


def heads_of(graph: Graph, x: str) -> str:
    return graph.add_node("reshape", [x], shape=(1, graph.type_of(x).shape[1], HEADS, WIDTH // HEADS))


def attention(graph: Graph, x: str, *more: str, **attrs: Any) -> str:
    heads = heads_of(graph, x)
    return graph.add_node("attention", [heads, heads, heads, *more], scale=0.5, **attrs)


def unmasked(graph: Graph, x: str) -> str:
    """As stock models whose padding mask hides queries instead of keys."""
    return attention(graph, x)


def all_hidden(graph: Graph, x: str) -> str:
    """A bias that hides every key: the mean of all remains."""
    bias = graph.add_constant(np.full((1, 1, 1, 1), -1e9, np.float32))
    return attention(graph, x, "", graph.add_node("broadcast_to", [bias], shape=(1, 1, "sequence", "sequence")))


def any_visible(graph: Graph, x: str) -> str:
    """Whether any key is visible, and how many are, as numbers for each token."""
    visible = graph.add_node("not", [graph.add_node("lt", [x, graph.add_constant(np.float32(0))])])
    numbers = graph.add_node("cast", [visible], dtype="float32")
    most, count = (graph.add_node(op, [numbers], axes=(1,), keepdims=True) for op in ("reduce_max", "reduce_sum"))
    return graph.add_node("add", [x, graph.add_node("add", [most, count])])


def mean(graph: Graph, x: str) -> str:
    """What models give for a token from which everything is hidden."""
    return graph.add_node("add", [x, graph.add_node("reduce_mean", [x], axes=(1,), keepdims=True)])


def largest(graph: Graph, x: str) -> str:
    """Of numbers that may all be negative, and of whole numbers."""
    numbers = graph.add_node("sub", [x, graph.add_constant(np.float32(50))])
    whole = graph.add_node("cast", [graph.add_node("cast", [numbers], dtype="int32")], dtype="float32")
    both = [graph.add_node("reduce_max", [part], axes=(1,), keepdims=True) for part in (numbers, whole)]
    return graph.add_node("add", [x, graph.add_node("add", both)])


def own_length(graph: Graph, x: str) -> str:
    """Long rows are computed in another way, as rotary tables for long rows are chosen."""
    size = graph.add_node("cast", [graph.add_node("dim_size", [], dim="sequence")], dtype="float32")
    return graph.add_node("mul", [x, size])


@pytest.mark.parametrize("build", [unmasked, all_hidden, any_visible, mean, largest, own_length])
def test_what_stands_behind_a_row_reaches_nothing_in_it(build: Build) -> None:
    """Without the pass it would: the same graph on the padded row differs."""
    graph = whole_rows(build)
    after, result = applied(graph, EndRows())
    weights, padded = NamedNumbers.of(graph), np.pad(IDS, ((0, 0), (0, 4)), constant_values=-1)
    alone = run(graph, {"token_ids": IDS}, weights, batch=1)["token_ids_output"]
    ended = run(after, {"token_ids": padded}, weights, batch=1)["token_ids_output"]
    assert result.changes == 1 and result.refusals == []
    np.testing.assert_allclose(ended[:, :5], alone, rtol=1e-5, atol=1e-6)
    unended = run(graph, {"token_ids": np.maximum(padded, 0)}, weights, batch=1)["token_ids_output"]
    assert np.abs(unended[:, :5] - alone).max() > 1e-2


def test_an_encoders_row_has_an_end_of_its_own() -> None:
    """Each side is hidden behind its own ids, also where one softmax runs over both."""
    graph = whole_rows(unmasked, encoder=unmasked)
    own, other = (graph.nodes[graph.nodes.index(node) - 1].output for node in graph.of_op("attention"))
    for inputs in ([own, own, own, *[""] * 6, other, other], [own, own, own, *[""] * 6, other, other, "", "shown"]):
        if "shown" in inputs:
            graph.add_input("shown", "bool", (1, 1, 1, "encoder_sequence"))
        graph.outputs[f"joint{len(inputs)}"] = graph.add_node("joint_attention", inputs, scale=0.5)
    after, result = applied(graph, EndRows())
    assert result.refusals == []
    weights, feeds = NamedNumbers.of(graph), {"token_ids": IDS[:, :3], "encoder_token_ids": IDS, "shown": np.array([[[[True, False, True, True, True]]]])}
    padded = {name: np.pad(ids, ((0, 0), (0, 9 - ids.shape[1])), constant_values=-1) for name, ids in feeds.items() if name != "shown"}
    padded["shown"] = np.pad(feeds["shown"], ((0, 0), (0, 0), (0, 0), (0, 4)), constant_values=True)
    alone, ended = run(graph, feeds, weights, batch=1), run(after, padded, weights, batch=1)
    for name, array in alone.items():
        np.testing.assert_allclose(ended[name][:, : array.shape[1]], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_second_run_changes_nothing() -> None:
    """Rows that may end need no end once more."""
    once, _ = applied(whole_rows(any_visible), EndRows())
    assert EndRows()(once).changes == 0


def all_means(graph: Graph, x: str) -> str:
    return graph.add_node("reduce_mean", [x], axes=(1, 2))


def fourier(graph: Graph, x: str) -> str:
    return graph.add_node("matmul", [graph.add_node("transpose", [x], permutation=(0, 2, 1)), x])


def soft(graph: Graph, x: str) -> str:
    return graph.add_node("softmax", [x], axis=1)


def moved(graph: Graph, x: str) -> str:
    return graph.add_node("reshape", [graph.add_node("transpose", [x], permutation=(0, 2, 1))], shape=(1, "sequence", WIDTH))


def third(graph: Graph, x: str) -> str:
    return graph.add_node("gather", [x, graph.add_constant(np.array([2], np.int32))], axis=1)


def all_rows(graph: Graph, x: str) -> str:
    return graph.add_node("mul", [x, graph.add_node("cast", [graph.add_node("dim_size", [], dim="2*sequence")], dtype="float32")])


@pytest.mark.parametrize(
    ("build", "op"),
    [(all_means, "reduce_mean"), (fourier, "matmul"), (soft, "softmax"), (moved, "reshape"), (third, "gather"), (all_rows, "dim_size")],
)
def test_what_mixes_tokens_is_named(build: Build, op: str) -> None:
    """By its op, so that a target can refuse it."""
    _, result = applied(whole_rows(build), EndRows())
    assert [refusal.split("`")[1] for refusal in result.refusals] == [op]


@pytest.mark.parametrize("shape", [(1, "sequence", 2, 4), ("sequence", 8), (1, "8*sequence")])
def test_what_keeps_tokens_apart_is_not(shape: tuple[Any, ...]) -> None:
    """Heads, and tokens that lead; the first token, which every row has."""
    graph = whole_rows(lambda graph, x: graph.add_node("reshape", [x], shape=shape))
    graph.outputs["first"] = graph.add_node("gather", [graph.nodes[0].output, graph.add_constant(np.array([0], np.int32))], axis=1)
    assert applied(graph, EndRows())[1].refusals == []


@pytest.mark.parametrize(("op", "attrs"), [("reshape", {"shape": ("sequence", "batch", WIDTH)}), ("reduce_sum", {"axes": (0,)}), ("softmax", {"axis": 0})])
def test_what_mixes_the_rows_of_a_batch_is_named(op: str, attrs: dict[str, Any]) -> None:
    """Rows that are run one by one would give something else. What keeps them apart is not named."""
    graph = Graph("backbone")
    graph.add_input("x", "float32", ("batch", "sequence", WIDTH))
    apart = graph.add_node("reduce_sum", [graph.add_node("transpose", ["x"], permutation=(1, 0, 2))], axes=(0, 2))
    graph.outputs = {"apart": apart, "flat": graph.add_node("reshape", ["x"], shape=("batch*sequence", WIDTH))}
    assert rows_mixed(graph) == []
    graph.outputs["mixed"] = graph.add_node(op, ["x"], layer="mixer", **attrs)
    assert rows_mixed(graph) == [f"`{op}` in layer mixer"]
