"""Running passes: a pass that breaks a graph is named, with those before it; cutting parts out of a graph."""

from __future__ import annotations

import pytest
from kexport.graphs.ir import Graph
from kexport.graphs.passes import Pass, RemoveDeadCode, Result, clean, optimise, run_passes
from kexport.graphs.passes.subgraph import ancestors, cut_out
from kexport.graphs.verify import verify
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import ops_of, parameter
from tests.seed_models import MODELS, load_golden


class Breaks(Pass):
    """Leaves a node that reads nothing."""

    def run(self, graph: Graph, result: Result) -> None:
        graph.nodes[0].inputs = ("nowhere",)


def chain() -> Graph:
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 2))
    value = graph.add_node("neg", ["x"])
    graph.outputs["y"] = graph.add_node("linear", [graph.add_node("exp", [value]), parameter(graph, "w", 2, 2)])
    return graph


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    """With the passes before it, which is what a bug report needs."""
    with pytest.raises(InternalError, match=r"KX908.*Breaks.*RemoveDeadCode, Breaks.*nowhere"):
        run_passes(chain(), [RemoveDeadCode(), Breaks()])


def test_checking_can_be_left_out() -> None:
    """Then nothing is said."""
    assert set(run_passes(chain(), [Breaks()], check=False)) == {"Breaks"}


def test_two_runs_of_one_pass_have_two_results() -> None:
    """Neither overwrites the other."""
    assert set(run_passes(chain(), [RemoveDeadCode(), RemoveDeadCode()])) == {"RemoveDeadCode", "RemoveDeadCode#1"}


@pytest.mark.parametrize("name", MODELS)
def test_committed_graphs_are_clean(name: str) -> None:
    """No pass of `clean` finds anything left to do in a captured graph; after `optimise`, a second run changes nothing."""
    for signature, graph in load_golden(name).graphs.items():
        assert {key: result.changes for key, result in run_passes(graph, clean()).items() if result.changes} == {}, signature
        if signature == "extend":
            run_passes(graph, optimise())
            assert {key: result.changes for key, result in run_passes(graph, [*optimise(), *clean()]).items() if result.changes} == {}


def test_ancestors_stop_where_told() -> None:
    """In order, with the leaves they read."""
    graph = chain()
    nodes, leaves = ancestors(graph, [graph.outputs["y"]])
    assert [node.op for node in nodes] == ["neg", "exp", "linear"] and leaves == {"x", "weight:w"}
    nodes, leaves = ancestors(graph, [graph.outputs["y"]], stop_at=[graph.nodes[0].output])
    assert [node.op for node in nodes] == ["exp", "linear"] and leaves == {graph.nodes[0].output, "weight:w"}


def test_a_part_is_a_graph_of_its_own() -> None:
    """Well formed, and edits do not reach the whole."""
    graph = chain()
    part = cut_out(graph, [graph.nodes[1].output])
    verify(part)
    assert ops_of(part) == ["neg", "exp"] and set(part.inputs) == {"x"}
    part.nodes[0].op = "abs"
    assert ops_of(graph) == ["neg", "exp", "linear"]
