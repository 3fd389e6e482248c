"""fold_constants, merge_equal, simplify_layout, dead_code: case by case, refusals included; a second run changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.passes import FoldConstants, MergeEqualNodes, RemoveDeadCode, SimplifyLayout
from kexport.graphs.passes.fold_constants import LARGEST_BYTES

from tests.graphs.helpers import applied, ops_of, parameter, same_outputs

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def with_x() -> Graph:
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 4))
    return graph


def check(graph: Graph, one: Any, ops: list[str], changes: int | None = None) -> Any:
    """The ops after the pass, and the same numbers."""
    after, result = applied(graph, one)
    assert ops_of(after) == ops
    if changes is not None:
        assert result.changes == changes
    same_outputs(graph, after, {"x": X, "positions": np.zeros((2, 3), np.int32), "unused": np.zeros(1, np.float32)}, total=3)
    return after, result


# ---- fold_constants


def test_fold_1_constants_are_computed() -> None:
    """A chain of constants becomes one."""
    graph = with_x()
    root = graph.add_node("sqrt", [graph.add_constant(np.float32(256))])
    graph.outputs["y"] = graph.add_node("mul", ["x", graph.add_node("neg", [root])])
    after, _ = check(graph, FoldConstants(), ["mul"], 2)
    assert after.constants[after.nodes[0].input(1)] == -16


def test_fold_2_a_large_result_is_refused() -> None:
    """It would swell the graph."""
    graph = with_x()
    size = LARGEST_BYTES // 4 + 1
    graph.outputs["y"] = graph.add_node("broadcast_to", [graph.add_constant(np.zeros(1, np.float32))], shape=(size,))
    _, result = check(graph, FoldConstants(), ["broadcast_to"], 0)
    assert str(LARGEST_BYTES) in result.refusals[0]


def test_fold_3_named_sizes_stay() -> None:
    """range(sequence), a product of names, and a shape with a name are no constants; range(3) is."""
    graph = with_x()
    graph.outputs["a"] = graph.add_node("range", [], size="sequence")
    graph.outputs["b"] = graph.add_node("dim_size", [], dim="2*batch")
    graph.outputs["c"] = graph.add_node("broadcast_to", [graph.add_constant(np.zeros(1, np.float32))], shape=("batch",))
    graph.outputs["d"] = graph.add_node("range", [], size=3)
    graph.outputs["e"] = graph.add_node("add", ["x", "x"])
    after, result = applied(graph, FoldConstants())
    assert ops_of(after) == ["range", "dim_size", "broadcast_to", "add"] and result.changes == 1
    same_outputs(graph, after, {"x": X})


def test_fold_4_weights_and_caches_stay() -> None:
    """A weight is a reference; a cache changes from call to call."""
    graph = with_x()
    graph.slots["s"] = Slot("self", 1, 1, 1)
    graph.outputs["y"] = graph.add_node("neg", [parameter(graph, "w", 4)])
    graph.outputs["z"] = graph.add_node("cache_read", [], slot="s", part=0)
    check(graph, FoldConstants(), ["neg", "cache_read"], 0)


# ---- merge_equal


def test_merge_1_equal_nodes_become_one() -> None:
    """In one run, also where they become equal by a merge before."""
    graph = with_x()
    first, second = (graph.add_node("exp", [graph.add_node("neg", ["x"])]) for _ in range(2))
    graph.outputs["y"] = graph.add_node("add", [first, second])
    check(graph, MergeEqualNodes(), ["neg", "exp", "add"], 2)


def test_merge_2_a_graph_output_moves_along() -> None:
    """Two outputs may be one value afterwards."""
    graph = with_x()
    graph.outputs = {"a": graph.add_node("neg", ["x"]), "b": graph.add_node("neg", ["x"])}
    after, _ = check(graph, MergeEqualNodes(), ["neg"], 1)
    assert after.outputs["a"] == after.outputs["b"]


def test_merge_3_other_attributes_or_inputs_stay() -> None:
    """Another axis, or the operands the other way round."""
    graph = with_x()
    graph.outputs = {"a": graph.add_node("softmax", ["x"], axis=1), "b": graph.add_node("softmax", ["x"], axis=2)}
    graph.outputs["c"] = graph.add_node("sub", ["x", graph.outputs["a"]])
    graph.outputs["d"] = graph.add_node("sub", [graph.outputs["a"], "x"])
    check(graph, MergeEqualNodes(), ["softmax", "softmax", "sub", "sub"], 0)


def test_merge_4_caches_are_not_merged() -> None:
    """Two reads of a slot may see different contents."""
    graph = with_x()
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["s"] = Slot("self", 1, 4, 4)
    graph.outputs["before"] = graph.add_node("cache_read", [], slot="s", part=0)
    heads = graph.add_node("reshape", ["x"], shape=("batch", "sequence", 1, 4))
    graph.outputs["written"] = graph.add_node("cache_write", [heads, "positions"], slot="s", part=0)
    graph.outputs["after"] = graph.add_node("cache_read", [], slot="s", part=0)
    check(graph, MergeEqualNodes(), ["cache_read", "reshape", "cache_write", "cache_read"], 0)


# ---- simplify_layout


def test_simplify_1_two_reshapes_are_one() -> None:
    """Three, too; one that comes back to the start is none."""
    graph = with_x()
    value = "x"
    for shape in (("batch*sequence", 4), ("4*batch*sequence",), ("batch", "4*sequence")):
        value = graph.add_node("reshape", [value], shape=shape)
    graph.outputs["y"] = graph.add_node("neg", [value])
    after, _ = applied(graph, SimplifyLayout())
    after, _ = applied(_clean(after), SimplifyLayout())
    assert ops_of(after) == ["reshape", "neg"]
    same_outputs(graph, after, {"x": X})


def _clean(graph: Graph) -> Graph:
    RemoveDeadCode()(graph)
    return graph


def test_simplify_2_to_its_own_shape_or_dtype_is_nothing() -> None:
    """reshape, broadcast_to, cast and transpose that change nothing."""
    graph = with_x()
    value = graph.add_node("reshape", ["x"], shape=("batch", "sequence", 4))
    value = graph.add_node("broadcast_to", [value], shape=("batch", "sequence", 4))
    value = graph.add_node("cast", [value], dtype="float32")
    value = graph.add_node("transpose", [value], permutation=(0, 1, 2))
    graph.outputs["y"] = graph.add_node("neg", [value])
    check(graph, SimplifyLayout(), ["neg"])


def test_simplify_3_two_transposes_are_one_or_none() -> None:
    """The permutations compose; inverses disappear."""
    graph = with_x()
    once = graph.add_node("transpose", ["x"], permutation=(1, 2, 0))
    graph.outputs["twice"] = graph.add_node("neg", [graph.add_node("transpose", [once], permutation=(1, 2, 0))])
    graph.outputs["back"] = graph.add_node("neg", [graph.add_node("transpose", [once], permutation=(2, 0, 1))])
    after, _ = applied(graph, SimplifyLayout())
    _clean(after)
    assert ops_of(after) == ["transpose", "neg", "neg"] and after.nodes[0].attrs["permutation"] == (2, 0, 1)
    same_outputs(graph, after, {"x": X})


def test_simplify_4_what_does_something_stays() -> None:
    """A real cast, a real broadcast, one transpose, one reshape."""
    graph = with_x()
    graph.outputs["a"] = graph.add_node("cast", ["x"], dtype="float16")
    graph.outputs["b"] = graph.add_node("transpose", ["x"], permutation=(1, 0, 2))
    graph.outputs["c"] = graph.add_node("reshape", ["x"], shape=("batch", "4*sequence"))
    graph.outputs["d"] = graph.add_node("broadcast_to", [graph.add_constant(np.ones((1, 4), np.float32))], shape=(3, 4))
    check(graph, SimplifyLayout(), ["cast", "transpose", "reshape", "broadcast_to"], 0)


# ---- dead_code


def test_dead_1_everything_unneeded_goes() -> None:
    """Nodes, constants, weights, inputs, slots and types."""
    graph = with_x()
    graph.add_input("unused", "float32", (1,))
    graph.slots["unused"] = Slot("self", 1, 1, 1)
    graph.add_node("add", ["x", graph.add_constant(np.float32(1), "c")])
    graph.add_node("mul", ["x", parameter(graph, "w", 4)])
    graph.outputs["y"] = graph.add_node("neg", ["x"])
    after, _ = check(graph, RemoveDeadCode(), ["neg"], 2)
    assert not after.constants and not after.weights and not after.slots
    assert set(after.inputs) == {"x"} and set(after.types) == {"x", after.outputs["y"]}


def test_dead_2_named_inputs_stay() -> None:
    """An input that the signature promises."""
    graph = with_x()
    graph.add_input("lengths", "int32", ("batch",))
    graph.outputs["y"] = graph.add_node("neg", ["x"])
    after, _ = applied(graph, RemoveDeadCode(frozenset({"lengths"})))
    assert set(after.inputs) == {"x", "lengths"} and "lengths" in after.types


def test_dead_3_a_writer_of_a_slot_that_is_read_stays() -> None:
    """Nothing reads the write's value, and yet the cache must be written."""
    graph = with_x()
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["s"], graph.slots["t"] = Slot("self", 1, 4, 4), Slot("self", 1, 4, 4)
    heads = graph.add_node("reshape", ["x"], shape=("batch", "sequence", 1, 4))
    for slot in ("s", "t"):
        for part in range(2):
            graph.add_node("cache_write", [heads, "positions"], slot=slot, part=part)
    graph.outputs["y"] = graph.add_node("attention", [heads, "", "", "positions"], scale=1.0, slot="s", causal=True)
    after, _ = check(graph, RemoveDeadCode(), ["reshape", "cache_write", "cache_write", "attention"])
    assert set(after.slots) == {"s"}


def test_dead_4_a_static_output_is_kept() -> None:
    """A graph output may be a constant or a weight itself."""
    graph = with_x()
    graph.outputs["c"] = graph.add_constant(np.float32(1), "c")
    after, _ = applied(graph, RemoveDeadCode())
    assert "c" in after.constants and "c" in after.types
