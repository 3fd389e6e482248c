"""drop_repeated_heads and zero_rows_without_keys: case by case, refusals included; a second run changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from kexport.graphs.ir import Graph
from kexport.graphs.ops.attention import KEY, POSITIONS, VALUE
from kexport.graphs.passes import DropRepeatedHeads, RemoveDeadCode, ZeroRowsWithoutKeys

from tests.graphs.helpers import applied, ops_of, same_outputs

DIM, KEY_HEADS, GROUP = 4, 2, 3
HEADS = KEY_HEADS * GROUP


def repeated(graph: Graph, source: str, *, by_blocks: bool = False) -> str:
    """Heads repeated one by one, as keras.ops.repeat is traced; `by_blocks`: all of them, and all of them again."""
    spread = (1, KEY_HEADS) if by_blocks else (KEY_HEADS, 1)
    wide = (GROUP, KEY_HEADS) if by_blocks else (KEY_HEADS, GROUP)
    x = graph.add_node("reshape", [source], shape=("batch", "sequence", *spread, DIM))
    x = graph.add_node("broadcast_to", [x], shape=("batch", "sequence", *wide, DIM))
    return graph.add_node("reshape", [x], shape=("batch", "sequence", HEADS, DIM))


def attention(*, flat_value: bool = False, by_blocks: bool = False) -> Graph:
    """Attention over repeated keys and values under a mask that is an input."""
    graph = Graph("g")
    graph.add_input("q", "float32", ("batch", "sequence", HEADS, DIM))
    graph.add_input("k", "float32", ("batch", "sequence", KEY_HEADS, DIM))
    graph.add_input("v", "float32", ("batch", "sequence", KEY_HEADS * DIM) if flat_value else ("batch", "sequence", KEY_HEADS, DIM))
    graph.add_input("mask", "bool", ("batch", 1, "sequence", "sequence"))
    key, value = repeated(graph, "k", by_blocks=by_blocks), repeated(graph, "v", by_blocks=by_blocks)
    graph.outputs["y"] = graph.add_node("attention", ["q", key, value, "", "", "mask"], layer="layer", scale=0.5)
    return graph


def feeds(*, flat_value: bool = False) -> dict[str, np.ndarray]:
    """Two rows of five; one token sees nothing."""
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal((2, 5, heads, DIM)).astype(np.float32) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    mask = np.tril(np.ones((2, 1, 5, 5), bool))
    mask[1, 0, 3] = False
    return {"q": q, "k": k, "v": v.reshape(2, 5, -1) if flat_value else v, "mask": mask}


@pytest.mark.parametrize("flat_value", [False, True])
def test_heads_1_repeated_heads_are_read_unrepeated(flat_value: bool) -> None:
    """Also where the source is still flat, as a product gives it."""
    graph = attention(flat_value=flat_value)
    after, result = applied(graph, DropRepeatedHeads())
    RemoveDeadCode()(after)
    (node,) = after.of_op("attention")
    assert result.changes == 1 and "broadcast_to" not in ops_of(after)
    assert all(after.type_of(node.input(index)).shape == ("batch", "sequence", KEY_HEADS, DIM) for index in (KEY, VALUE))
    same_outputs(graph, after, feeds(flat_value=flat_value))


def test_heads_2_another_order_is_kept() -> None:
    """Blocks of heads repeated would pair other heads."""
    assert applied(attention(by_blocks=True), DropRepeatedHeads())[1].changes == 0


def test_zero_1_a_token_without_keys_gives_zeros_in_so_many_words() -> None:
    """The meaning stays; the choice stands in the graph."""
    graph = attention()
    after, result = applied(graph, ZeroRowsWithoutKeys())
    assert result.changes == 1 and ops_of(after)[-1] == "where"
    same_outputs(graph, after, feeds())


def test_zero_2_without_a_mask_nothing_is_hidden() -> None:
    """No guard where every token sees a key."""
    graph = attention()
    (node,) = graph.of_op("attention")
    node.inputs = node.inputs[:3]
    assert applied(graph, ZeroRowsWithoutKeys())[1].changes == 0


def test_zero_3_a_window_hides_keys_too() -> None:
    """It becomes part of the mask: the third token of the second row sees padding only through it."""
    graph = attention()
    graph.add_input("positions", "int32", (1, "sequence"))
    (node,) = graph.of_op("attention")
    node.inputs, node.attrs["window"] = (*node.inputs[:3], "positions", "", "mask"), 2
    after, result = applied(graph, ZeroRowsWithoutKeys())
    (guarded,) = after.of_op("attention")
    assert result.changes == 1 and not guarded.attrs["window"] and not guarded.input(POSITIONS)
    mask = np.tril(np.ones((2, 1, 5, 5), bool))
    mask[1, ..., 1:] = False
    same_outputs(graph, after, feeds() | {"mask": mask, "positions": np.arange(5, dtype=np.int32)[None]})
