"""recognise_linear, pack_qkv, last_position: case by case, refusals included; a second run changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.passes import LastPositionLogits, PackQueryKeyValue, RecogniseLinear
from kexport.graphs.passes.last_position import LENGTHS
from kexport.graphs.weights import Concatenated

from tests.graphs.helpers import NamedNumbers, applied, compare, ops_of, parameter, same_outputs

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2], [1, 2, 3]], np.int32)
TOLERANCE = 1e-5


def with_x() -> Graph:
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 4))
    return graph


def product(graph: Graph, x: str = "x", out: int = 6, name: str = "w", op: str = "matmul") -> str:
    return graph.add_node(op, [x, parameter(graph, name, int(graph.type_of(x).shape[-1]), out)], layer="dense")


# ---- recognise_linear


def test_linear_1_a_product_with_a_weight() -> None:
    """matmul(x, weight) is linear."""
    graph = with_x()
    graph.outputs["y"] = product(graph)
    after, result = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear"] and result.changes == 1
    same_outputs(graph, after, {"x": X})


@pytest.mark.parametrize("bias_first", [False, True])
def test_linear_2_the_bias_belongs_to_it(bias_first: bool) -> None:
    """On either side of the sum."""
    graph = with_x()
    inputs = [product(graph), parameter(graph, "b", 6)]
    graph.outputs["y"] = graph.add_node("add", inputs[::-1] if bias_first else inputs)
    after, _ = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear"] and len(after.nodes[0].inputs) == 3
    same_outputs(graph, after, {"x": X})


def test_linear_3_a_bias_behind_a_reshape_to_heads() -> None:
    """The bias [heads, dim] becomes [heads * dim] in front of the reshape."""
    graph = with_x()
    heads = graph.add_node("reshape", [product(graph)], shape=("batch", "sequence", 2, 3))
    graph.outputs["y"] = graph.add_node("add", [heads, parameter(graph, "b", 2, 3)])
    after, _ = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear", "reshape"]
    same_outputs(graph, after, {"x": X})


def test_linear_4_no_weight_no_linear() -> None:
    """A product of two computed values, and a weight of rank 3, stay."""
    graph = with_x()
    turned = graph.add_node("transpose", ["x"], permutation=(0, 2, 1))
    graph.outputs["y"] = graph.add_node("matmul", ["x", turned])
    graph.outputs["z"] = graph.add_node("matmul", ["x", parameter(graph, "w3", 1, 4, 5)])
    after, result = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["transpose", "matmul", "matmul"] and result.changes == 0


def test_linear_5_a_product_with_another_reader_keeps_its_bias_outside() -> None:
    """The reader wants the product without the bias; noted with the bias's name."""
    graph = with_x()
    value = product(graph)
    graph.outputs["y"] = graph.add_node("add", [value, parameter(graph, "the_bias", 6)])
    graph.outputs["z"] = graph.add_node("neg", [value])
    after, result = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear", "add", "neg"] and "the_bias" in result.refusals[0]
    same_outputs(graph, after, {"x": X})


def test_linear_6_a_product_that_is_a_graph_output_keeps_its_bias_outside() -> None:
    """Otherwise the output would change."""
    graph = with_x()
    graph.outputs["product"] = product(graph)
    graph.outputs["y"] = graph.add_node("add", [graph.outputs["product"], parameter(graph, "b", 6)])
    after, result = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear", "add"] and result.refusals
    same_outputs(graph, after, {"x": X})


def test_linear_7_a_bias_elsewhere_is_refused() -> None:
    """A bias of one number, or one per position, does not lie on the product's last axis."""
    graph = Graph("g")
    graph.add_input("x", "float32", (3, 4))
    graph.outputs["y"] = graph.add_node("add", [product(graph), parameter(graph, "b", 1)])
    graph.outputs["z"] = graph.add_node("add", [product(graph, out=1, name="v"), parameter(graph, "c", 3, 1)])
    after, result = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear", "add", "linear", "add"] and len(result.refusals) == 2
    same_outputs(graph, after, {"x": X[0]})


def test_linear_8_a_second_bias_stays() -> None:
    """Only one belongs to the product."""
    graph = with_x()
    first = graph.add_node("add", [product(graph), parameter(graph, "b", 6)])
    graph.outputs["y"] = graph.add_node("add", [first, parameter(graph, "c", 6)])
    after, _ = applied(graph, RecogniseLinear())
    assert ops_of(after) == ["linear", "add"]
    same_outputs(graph, after, {"x": X})


def test_linear_9_one_weight_may_serve_two_products() -> None:
    """A tied weight is read twice and stays one."""
    graph = with_x()
    graph.outputs["y"] = product(graph, product(graph, out=4, name="tied"), out=4, name="tied")
    after, result = applied(graph, RecogniseLinear())
    assert result.changes == 2 and len(after.weights) == 1


# ---- pack_qkv


def projections(
    *, bias: tuple[bool, bool, bool] = (False, False, False), write: bool = True, rope: bool = True, other_input: bool = False
) -> Graph:
    """Queries of four heads, keys and values of two, an attention."""
    graph = with_x()
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["self.0"] = Slot("self", 2, 2, 2)
    values = []
    for index, (name, heads) in enumerate((("q", 4), ("k", 2), ("v", 2))):
        x = graph.add_node("neg", ["x"]) if other_input and name == "v" else "x"
        inputs = [x, parameter(graph, name, 4, heads * 2)] + ([parameter(graph, f"{name}.bias", heads * 2)] if bias[index] else [])
        value = graph.add_node("reshape", [graph.add_node("linear", inputs)], shape=("batch", "sequence", heads, 2))
        if rope and name != "v":
            value = graph.add_node("rope", [value, "positions", graph.add_constant(np.ones(1, np.float32))])
        values.append(value)
    slot = {"slot": "self.0", "write": True, "causal": True} if write else {}
    graph.outputs["y"] = graph.add_node("attention", [*values, "positions"], scale=1.0, layer="layer_0/attention", **slot)
    return graph


def both(before: Graph, after: Graph) -> None:
    same_outputs(before, after, {"x": X, "positions": POSITIONS}, total=5, tolerance=TOLERANCE)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rope", [False, True])
def test_pack_1_three_products_become_one(bias: bool, rope: bool) -> None:
    """One linear over the joined weight, one split; the weight is a lazy concatenation."""
    graph = projections(bias=(bias,) * 3, rope=rope)
    after, result = applied(graph, PackQueryKeyValue())
    assert result.changes == 1 and ops_of(after).count("linear") == ops_of(after).count("split") == 1
    (packed,) = after.of_op("linear")
    weight = after.weights[packed.input(1)]
    assert isinstance(weight, Concatenated) and weight.shape == (4, 16) and [p.name for p in weight.parameters()] == ["q", "k", "v"]
    both(graph, after)


def test_pack_2_different_inputs_are_refused() -> None:
    """Noted with the attention's layer."""
    after, result = applied(projections(other_input=True), PackQueryKeyValue())
    assert ops_of(after).count("linear") == 3 and "layer_0/attention" in result.refusals[0]


@pytest.mark.parametrize("bias", [(True, False, False), (True, True, False), (False, True, True)])
def test_pack_3_a_bias_on_some_only_is_refused(bias: tuple[bool, bool, bool]) -> None:
    """There is no zero bias to invent here."""
    after, result = applied(projections(bias=bias), PackQueryKeyValue())
    assert ops_of(after).count("linear") == 3 and result.refusals


def test_pack_4_a_product_read_elsewhere_is_refused() -> None:
    """Its other reader would lose it."""
    graph = projections()
    graph.outputs["z"] = graph.add_node("neg", [graph.nodes[0].output])
    after, result = applied(graph, PackQueryKeyValue())
    assert ops_of(after).count("linear") == 3 and "elsewhere" in result.refusals[0]
    both(graph, after)


def test_pack_5_attention_that_writes_no_cache_stays() -> None:
    """Encoders and cross attention keep their products."""
    after, result = applied(projections(write=False), PackQueryKeyValue())
    assert result.changes == 0 and ops_of(after).count("linear") == 3


def test_pack_6_a_product_that_is_a_graph_output_still_comes_out() -> None:
    """The split gives it under its old name."""
    graph = projections()
    graph.outputs["q"] = graph.nodes[0].output
    after, _ = applied(graph, PackQueryKeyValue())
    both(graph, after)


# ---- last_position


def with_head(*tail: str, head: str = "linear") -> Graph:
    """A body, a head, elementwise ops behind it."""
    graph = with_x()
    value = product(graph, graph.add_node("neg", ["x"]), op=head)
    for op in tail:
        value = graph.add_node(
            op,
            [value] if op in ("tanh", "cast") else [value, graph.add_constant(np.float32(2))],
            **({"dtype": "float16"} if op == "cast" else {}),
        )
    graph.outputs["logits"] = value
    return graph


@pytest.mark.parametrize("tail", [(), ("div", "tanh", "mul"), ("cast",)], ids=str)
def test_last_1_the_head_sees_one_position_a_row(tail: tuple[str, ...]) -> None:
    """Through a softcap and a cast; equal to the full logits at each row's last token."""
    graph = with_head(*tail)
    after, result = applied(graph, LastPositionLogits())
    assert (
        result.changes == 1
        and after.inputs[LENGTHS].shape == ("batch",)
        and after.type_of(after.outputs["logits"]).shape == ("batch", 1, 6)
    )
    from kexport.graphs.interpreter import run

    lengths = np.array([3, 1], np.int32)
    full = run(graph, {"x": X}, NamedNumbers.of(graph))["logits"]
    last = run(after, {"x": X, LENGTHS: lengths}, NamedNumbers.of(after))["logits"]
    compare(last[:, 0], full[np.arange(2), lengths - 1], TOLERANCE if "cast" not in tail else 1e-3, "logits")


def test_last_2_a_bias_as_weight_is_passed() -> None:
    """The head may have an addition of a parameter behind it."""
    graph = with_head()
    graph.outputs["logits"] = graph.add_node("add", [graph.outputs["logits"], parameter(graph, "b", 6)])
    assert applied(graph, LastPositionLogits())[1].changes == 1


def test_last_3_no_head_is_refused() -> None:
    """A product that is no linear, a sum of two computed values, an op that is not elementwise, no such output."""
    added = with_head()
    added.outputs["logits"] = added.add_node("add", [added.outputs["logits"], added.add_node("neg", [added.outputs["logits"]])])
    moved = with_head()
    moved.outputs["logits"] = moved.add_node("softmax", [moved.outputs["logits"]], axis=1)
    nothing = with_head()
    nothing.outputs = {"hidden": nothing.outputs["logits"]}
    for graph in (with_head(head="matmul"), added, moved, nothing):
        after, result = applied(graph, LastPositionLogits())
        assert result.changes == 0 and "logits" in result.refusals[0] and LENGTHS not in after.inputs


def test_last_4_another_output_may_be_named() -> None:
    """Scores of another name."""
    graph = with_head()
    graph.outputs = {"scores": graph.outputs["logits"]}
    assert applied(graph, LastPositionLogits("scores"))[1].changes == 1
