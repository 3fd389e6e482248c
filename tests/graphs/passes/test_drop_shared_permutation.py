"""drop_shared_permutation: what the dot product does not see goes, anything else stays."""

from __future__ import annotations

import numpy as np
import pytest
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.passes import DropSharedPermutation, RemoveDeadCode

from tests.graphs.helpers import applied, ops_of, same_outputs

DIM = 4
FEEDS = {
    "q": np.random.default_rng(0).standard_normal((2, 3, 2, DIM)).astype(np.float32),
    "k": np.random.default_rng(1).standard_normal((2, 3, 1, DIM)).astype(np.float32),
    "positions": np.tile(np.arange(3, dtype=np.int32), (2, 1)),
}


def start() -> Graph:
    graph = Graph("g")
    graph.add_input("q", "float32", ("batch", "sequence", 2, DIM))
    graph.add_input("k", "float32", ("batch", "sequence", 1, DIM))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["self.0"] = Slot("self", 1, DIM, DIM)
    return graph


def interleave(graph: Graph, x: str) -> str:
    """The two halves dealt out one by one, as Gemma does."""
    heads = graph.type_of(x).shape[2]
    pairs = graph.add_node("reshape", [x], shape=("batch", "sequence", heads, 2, DIM // 2))
    return graph.add_node(
        "reshape", [graph.add_node("transpose", [pairs], permutation=(0, 1, 2, 4, 3))], shape=("batch", "sequence", heads, DIM)
    )


def swap_halves(graph: Graph, x: str) -> str:
    first, second = (graph.add_node("slice", [x], axis=3, start=at, stop=at + 2) for at in (0, 2))
    return graph.add_node("concat", [second, first], axis=3)


def repeat_half(graph: Graph, x: str) -> str:
    """No permutation: half of the numbers are lost."""
    half = graph.add_node("slice", [x], axis=3, start=0, stop=2)
    return graph.add_node("concat", [half, half], axis=3)


def reverse_heads(graph: Graph, x: str) -> str:
    """Moves numbers between heads, not within one."""
    first, second = (graph.add_node("slice", [x], axis=2, start=at, stop=at + 1) for at in (0, 1))
    return graph.add_node("concat", [second, first], axis=2)


def attend(graph: Graph, query: str, key: str, *, name: str = "y", write: bool = True) -> None:
    inputs = [query, key, "k", "positions"] if write else [query, "", "", "positions"]
    graph.outputs[name] = graph.add_node("attention", inputs, layer="layer_0", scale=1.0, slot="self.0", write=write, causal=True)


@pytest.mark.parametrize("permute", [interleave, swap_halves])
def test_1_the_same_permutation_goes(permute: object) -> None:
    """On both sides, found by running it; the output is equal, the cache holds unpermuted keys."""
    graph = start()
    attend(graph, permute(graph, "q"), permute(graph, "k"))  # type: ignore[operator]
    after, result = applied(graph, DropSharedPermutation())
    RemoveDeadCode(frozenset(graph.inputs))(after)
    assert result.changes == 1 and ops_of(after) == ["attention"]
    before = graph.copy()
    before.slots, after.slots = dict(before.slots), dict(after.slots)
    from kexport.graphs.interpreter import new_caches, run

    outputs = [run(one, FEEDS, None, new_caches(one, 2, 3))["y"] for one in (before, after)]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)


def test_2_different_permutations_stay() -> None:
    """Their dot product is another; noted."""
    graph = start()
    attend(graph, interleave(graph, "q"), swap_halves(graph, "k"))
    after, result = applied(graph, DropSharedPermutation())
    assert result.changes == 0 and "layer_0" in result.refusals[0]
    same_outputs(graph, after, FEEDS, total=3)


def test_3_one_side_alone_stays() -> None:
    """A permuted query against an unpermuted key."""
    graph = start()
    attend(graph, interleave(graph, "q"), "k")
    assert applied(graph, DropSharedPermutation())[1].changes == 0


def test_4_a_cache_with_another_reader_stays() -> None:
    """The other reader's query is permuted, too, and expects permuted keys."""
    graph = start()
    attend(graph, interleave(graph, "q"), interleave(graph, "k"))
    attend(graph, interleave(graph, "q"), "", name="z", write=False)
    after, result = applied(graph, DropSharedPermutation())
    assert result.changes == 0 and result.refusals
    same_outputs(graph, after, FEEDS, total=3)


def test_5_what_loses_numbers_or_moves_them_between_heads_stays() -> None:
    """Neither is an order of the last axis."""
    graph = start()
    attend(graph, repeat_half(graph, "q"), repeat_half(graph, "k"))
    assert applied(graph, DropSharedPermutation())[1].changes == 0
    graph = start()
    attend(graph, reverse_heads(graph, "q"), interleave(graph, "k"))
    assert applied(graph, DropSharedPermutation())[1].changes == 0
