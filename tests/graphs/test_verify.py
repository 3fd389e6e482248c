"""The verifier refuses every graph that breaks the grammar, and names what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kexport.graphs.ir import Graph, Node, Slot, TensorType
from kexport.graphs.verify import verify
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import parameter


def sound() -> Graph:
    """linear, cache, attention, an addition."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 4))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["self.0"] = Slot("self", 1, 4, 4)
    product = graph.add_node("linear", ["x", parameter(graph, "w", 4, 4)], layer="block", output="product")
    heads = graph.add_node("reshape", [product], shape=("batch", "sequence", 1, 4), output="heads")
    seen = graph.add_node(
        "attention",
        [heads, heads, heads, "positions"],
        scale=1.0,
        slot="self.0",
        write=True,
        causal=True,
        layer="block/attention",
        output="seen",
    )
    graph.outputs["y"] = graph.add_node("add", [seen, graph.add_constant(np.float32(1))], output="y")
    return graph


def test_a_sound_graph_passes() -> None:
    """Also with optional inputs left out and given as absent."""
    graph = sound()
    verify(graph)
    graph.nodes[2].inputs += ("", "", "")
    verify(graph)


def _node(index: int, **changes: object) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        for name, value in changes.items():
            setattr(graph.nodes[index], name, value)

    return edit


def _attrs(index: int, **changes: object) -> Callable[[Graph], None]:
    return lambda graph: graph.nodes[index].attrs.update(changes)  # type: ignore[arg-type]


def _twice(graph: Graph) -> None:
    graph.add_node("cache_write", ["heads", "positions"], slot="self.0", part=0)


def _both_parts(graph: Graph) -> None:
    for _ in range(2):
        graph.slots["self.1"] = Slot("self", 1, 4, 4)
        graph.add_node("cache_write", ["heads", "positions"], slot="self.1", part=1)


BROKEN: list[tuple[str, Callable[[Graph], None], str]] = [
    ("unknown op", _node(0, op="frobnicate"), r"KX904.*frobnicate.*block"),
    ("too few inputs", _node(0, inputs=("x",)), r"KX905.*linear.*takes inputs"),
    ("too many inputs", _node(3, inputs=("seen", "seen", "seen")), r"KX905.*add"),
    ("a required input left absent", _node(0, inputs=("x", "")), r"KX905.*weight"),
    ("an unknown attribute", _attrs(0, axis=1), r"KX905.*axis"),
    ("a missing attribute", lambda graph: graph.nodes[1].attrs.clear(), r"KX905.*reshape.*shape"),
    ("a value read before it is made", lambda graph: graph.nodes.reverse(), r"KX905.*before it is produced"),
    ("a value nobody makes", _node(3, inputs=("seen", "nothing")), r"KX905.*nothing"),
    ("a value made twice", _node(1, outputs=("product",)), r"KX905.*second time"),
    ("an input made again", _node(1, outputs=("x",)), r"KX905.*second time"),
    (
        "a recorded type that is not the rule's",
        lambda graph: graph.types.update(product=TensorType("float32", ("batch", 4))),
        r"KX905.*recorded",
    ),
    ("a missing output", _node(0, outputs=()), r"KX905.*outputs"),
    ("a graph output nobody makes", lambda graph: graph.outputs.update(z="nowhere"), r"KX903.*`z`.*nowhere"),
    ("an unknown slot", _attrs(2, slot="self.9"), r"KX905.*self.9"),
    ("a slot written twice", _twice, r"slot `self.0`|written twice"),
    ("a part written twice", _both_parts, r"KX905.*written twice"),
    ("causal without positions", _node(2, inputs=("heads", "heads", "heads")), r"KX905.*positions"),
    ("heads that do not divide", lambda graph: graph.slots.update({"self.0": Slot("self", 3, 4, 4)}), r"KX905"),
]


@pytest.mark.parametrize(("edit", "message"), [pytest.param(edit, message, id=what) for what, edit, message in BROKEN])
def test_a_broken_graph_is_refused(edit: Callable[[Graph], None], message: str) -> None:
    """With the op, its layer where it has one, and the reason."""
    graph = sound()
    edit(graph)
    with pytest.raises(InternalError) as caught:
        verify(graph)
    import re

    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_variadic_inputs_must_be_given() -> None:
    """concat takes any number, none of them absent."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 4))
    graph.outputs["y"] = graph.add_node("concat", ["x", "x", "x"], axis=1)
    verify(graph)
    graph.nodes[0].inputs = ("x", "", "x")
    with pytest.raises(InternalError, match="KX905"):
        verify(graph)
    graph.nodes[0] = Node("concat", (), graph.nodes[0].outputs, {"axis": 1})
    with pytest.raises(InternalError, match="KX905"):
        verify(graph)
