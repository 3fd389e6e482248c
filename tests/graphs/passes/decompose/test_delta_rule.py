"""delta_rule: its parallel, its one-token and its whole-row form give the recurrence's numbers, over states, chunks and hard cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, State
from kexport.graphs.passes import BoundRows
from kexport.graphs.passes.decompose import decompose
from kexport.graphs.verify import verify

HEADS, KEY, VALUE = 2, 4, 3


def graph_of(sequence: int | str, channels: int, chunk: int = 16) -> Graph:
    """query, key, ... -> output, with the state handed on."""
    graph = Graph("test")
    shapes = {"query": KEY, "key": KEY, "value": VALUE, "log_decay": channels, "erase": KEY, "write": KEY}
    inputs = [graph.add_input(name, "float32", (BATCH, sequence, HEADS, size)) for name, size in shapes.items()]
    state = graph.add_state("recurrent.0", State("recurrent", (HEADS, KEY, VALUE)))
    output, new = graph.add_nodes("delta_rule", [*inputs, state], 2, chunk=chunk)
    graph.outputs = {"y": output, "recurrent.0": new}
    verify(graph)
    return graph


LONGEST = 21  # of whole rows: six chunks


def rows_graph(sequence: int | str, channels: int) -> Graph:
    """query, key, ... -> output over whole rows in chunks of 4."""
    graph = Graph("test")
    shapes = {"query": KEY, "key": KEY, "value": VALUE, "log_decay": channels, "erase": KEY, "write": KEY}
    inputs = [graph.add_input(name, "float32", (BATCH, sequence, HEADS, size)) for name, size in shapes.items()]
    graph.outputs = {"y": graph.add_node("delta_rule_rows", inputs, chunk=4, longest=LONGEST)}
    verify(graph)
    return graph


def feeds_of(sequence: int, channels: int, *, equal_keys: bool = False, decay: float = 0.3, seed: int = 0) -> dict[str, Any]:
    """Random tokens as Gated DeltaNet makes them: keys of length 1, erase = -beta e^g key; equal keys are what padding gives."""
    generator = np.random.default_rng(seed)
    draw = generator.standard_normal
    key = draw((2, 1 if equal_keys else sequence, HEADS, KEY))
    key = np.broadcast_to(key / np.linalg.norm(key, axis=-1, keepdims=True), (2, sequence, HEADS, KEY))
    beta = np.full((2, sequence, HEADS, 1), 0.999) if equal_keys else generator.random((2, sequence, HEADS, 1))
    log_decay = -decay * generator.random((2, sequence, HEADS, channels))
    feeds = {
        "query": draw((2, sequence, HEADS, KEY)), "key": key, "value": beta * draw((2, sequence, HEADS, VALUE)), "log_decay": log_decay,
        "erase": -beta * np.exp(log_decay) * key, "write": key,
    }  # fmt: skip
    return {name: np.ascontiguousarray(array, np.float32) for name, array in feeds.items()}


@pytest.mark.parametrize("channels", [1, KEY])
@pytest.mark.parametrize(("sequence", "fixed"), [(1, True), (1, False), (2, False), (7, False), (16, False), (16, True), (5, True)])
@pytest.mark.parametrize("hard", [{}, {"equal_keys": True, "decay": 0.0}, {"decay": 80.0}])
def test_decomposed_equals_the_recurrence(channels: int, sequence: int, fixed: bool, hard: dict[str, Any]) -> None:
    """Equal keys without decay make powers of the correction explode; large decays leave nothing of the past."""
    graph = graph_of(sequence if fixed else SEQUENCE, channels)
    plain = graph.copy()
    decompose(plain, frozenset())
    verify(plain)
    assert not list(plain.of_op("delta_rule"))
    feeds = feeds_of(sequence, channels, **hard)
    state = np.random.default_rng(5).standard_normal((2, HEADS, KEY, VALUE)).astype(np.float32)
    expected, got = (run(item, {**feeds, "recurrent.0": state}) for item in (graph, plain))
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_pieces_give_what_the_whole_gives() -> None:
    """The state carries a call's tokens into the next; without it the result is another one."""
    graph = graph_of(SEQUENCE, 1)
    decompose(graph, frozenset())
    feeds = feeds_of(11, 1)
    whole = run(graph, feeds, None, new_caches(graph, 2, 11))["y"]
    caches = new_caches(graph, 2, 11)
    parts = [run(graph, {name: array[:, start:stop] for name, array in feeds.items()}, None, caches)["y"] for start, stop in ((0, 4), (4, 5), (5, 11))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-5)
    forgotten = run(graph, {name: array[:, 5:] for name, array in feeds.items()}, None, new_caches(graph, 2, 11))["y"]
    assert np.abs(forgotten - parts[2]).max() > 1e-2


@pytest.mark.parametrize("channels", [1, KEY])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("sequence", [1, 3, 4, 5, 8, 9, 16, 17, LONGEST])
@pytest.mark.parametrize("hard", [{}, {"equal_keys": True, "decay": 0.0}, {"decay": 80.0}])
def test_whole_rows_are_the_recurrence(channels: int, fixed: bool, sequence: int, hard: dict[str, Any]) -> None:
    """From zeros, over one chunk or several, the last one full or not."""
    graph = rows_graph(sequence if fixed else SEQUENCE, channels)
    plain = graph.copy()
    decompose(plain, frozenset())
    verify(plain)
    feeds = feeds_of(sequence, channels, **hard)
    expected = run(graph_of(SEQUENCE, channels), {**feeds, "recurrent.0": np.zeros((2, HEADS, KEY, VALUE), np.float32)})["y"]
    for form in (graph, plain):
        np.testing.assert_allclose(run(form, feeds)["y"], expected, rtol=2e-5, atol=2e-5)


def test_a_bound_on_rows_leaves_steps_out() -> None:
    """Fewer products for shorter rows, the same numbers up to the bound, and one chunk needs none."""
    feeds, sizes = feeds_of(8, 1), []
    expected = run(rows_graph(SEQUENCE, 1), feeds)["y"]
    for capacity in (4096, 8, 4):
        graph = rows_graph(SEQUENCE, 1)
        BoundRows(capacity)(graph)
        assert BoundRows(capacity)(graph).changes == 0
        decompose(graph, frozenset())
        sizes.append(len(list(graph.of_op("matmul"))))
        if capacity >= 8:
            np.testing.assert_allclose(run(graph, feeds)["y"], expected, rtol=2e-5, atol=2e-5)
    assert sizes[0] > sizes[1] > sizes[2]
