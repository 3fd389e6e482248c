"""recognise_experts: the ways in which models write a mixture down, and what stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.ir import Graph
from kexport.graphs.ops.experts import DOWN_BIAS, GATE, UP, WEIGHTS
from kexport.graphs.passes.recognise_experts import RecogniseExperts
from kexport.graphs.weights import Parameter

from tests.graphs.helpers import add_split, applied, ops_of, parameter, same_outputs, without_dead_code

TOKENS, HIDDEN, WIDTH, COUNT = "batch*sequence", 4, 5, 3
X = np.random.default_rng(0).standard_normal((2, 3, HIDDEN)).astype(np.float32)
TOLERANCE = 1e-5


class Block:
    """Builds a mixture as capture leaves it, [experts, tokens, columns] between its products."""

    def __init__(self) -> None:
        self.graph = Graph("g")
        x = self.graph.add_input("x", "float32", ("batch", "sequence", HIDDEN))
        self.x = self.graph.add_node("reshape", [x], shape=(TOKENS, HIDDEN))
        chances = self.graph.add_node("softmax", [self.graph.add_node("linear", [self.x, parameter(self.graph, "router", HIDDEN, COUNT)])])
        self.best, self.ids = self.graph.add_nodes("topk", [chances], 2, k=2)

    def __call__(self, op: str, *inputs: str, **attrs: Any) -> str:
        return self.graph.add_node(op, inputs, **attrs)

    def number(self, value: float) -> str:
        return self.graph.add_constant(np.float32(value))

    def product(self, name: str, width: int = WIDTH, x: str = "") -> str:
        weight = Parameter((COUNT, HIDDEN, width), "float32", f"block.experts.{name}").transpose((1, 0, 2)).reshape((HIDDEN, COUNT * width))
        made = self("linear", x or self.x, self.graph.add_weight(weight))
        return self("transpose", self("reshape", made, shape=(TOKENS, COUNT, width)), permutation=(1, 0, 2))

    def bias(self, made: str, name: str, width: int) -> str:
        return self("add", made, self("reshape", parameter(self.graph, f"block.experts.{name}", COUNT, width), shape=(COUNT, 1, width)))

    def down(self, hidden: str) -> str:
        return self("matmul", hidden, parameter(self.graph, "block.experts.down", COUNT, WIDTH, HIDDEN))

    def mixed(self, made: str) -> Graph:
        chosen = self("one_hot", self.ids, depth=COUNT, dtype="float32")
        shares = self("reduce_sum", self("mul", chosen, self("reshape", self.best, shape=(TOKENS, 2, 1))), axes=(1,), keepdims=False)
        share = self("reshape", self("transpose", shares, permutation=(1, 0)), shape=(COUNT, TOKENS, 1))
        added = self("reduce_sum", self("mul", made, share), axes=(0,), keepdims=False)
        self.graph.outputs["y"] = self("reshape", added, shape=("batch", "sequence", HIDDEN))
        return self.graph


def separate(block: Block) -> str:
    return block.down(block("mul", block.product("up"), block("silu", block.product("gate"))))


def halves(block: Block) -> str:
    gate, up = add_split(block.graph, block.product("gate_up", 2 * WIDTH), 2, (WIDTH, WIDTH))
    return block.down(block("mul", block("gelu", gate, approximate=True), up))


def alternating(block: Block) -> str:
    """As gpt-oss has it."""
    both = block.bias(block.product("gate_up", 2 * WIDTH), "gate_up_bias", 2 * WIDTH)
    gate, up = (block("gather", both, block.graph.add_constant(np.arange(start, 2 * WIDTH, 2, dtype=np.int32)), axis=2) for start in (0, 1))
    gate = block("max", block("min", gate, block.number(0.5)), block.number(-1e9))
    up = block("max", block("min", up, block.number(0.5)), block.number(-0.5))
    activated = block("mul", gate, block("sigmoid", block("mul", gate, block.number(1.702))))
    return block.bias(block.down(block("mul", block("add", up, block.number(1)), activated)), "down_bias", HIDDEN)


def scaled(block: Block) -> str:
    """As Gemma 4 has it."""
    scale = block("reshape", parameter(block.graph, "block.experts.scale", COUNT), shape=(COUNT, 1, 1))
    return block("mul", halves(block), scale)


FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "separate products": (separate, {"activation": "silu", "alpha": 1.0, "limit": None, "offset": 0.0}),
    "halves": (halves, {"activation": "gelu_tanh", "alpha": 1.0, "limit": None, "offset": 0.0}),
    "alternating": (alternating, {"activation": "silu", "alpha": 1.702, "limit": 0.5, "offset": 1.0}),
    "scaled": (scaled, {"activation": "gelu_tanh", "alpha": 1.0, "limit": None, "offset": 0.0}),
}


@pytest.mark.parametrize("form", FORMS)
def test_experts_1_a_mixture_in_every_layout(form: str) -> None:
    """One node with the attributes of its gate, which gives the same numbers; who takes which expert is left as it is."""
    build, attributes = FORMS[form]
    block = Block()
    graph = block.mixed(build(block))
    after, result = applied(graph, RecogniseExperts())
    after = without_dead_code(after)
    (node,) = after.of_op("experts")
    assert result.changes == 1 and not result.refusals
    assert node.attrs == attributes and node.layer == "block/experts"
    assert set(ops_of(after)) <= {"reshape", "linear", "softmax", "topk", "gather", "mul", "experts"}
    assert (node.input(WEIGHTS) == block.best) == (form != "scaled")
    assert bool(node.input(DOWN_BIAS)) == (form == "alternating")
    same_outputs(graph, after, {"x": X}, tolerance=TOLERANCE, batch=2, sequence=3)


def test_a_parameter_of_its_own_comes_back_as_itself() -> None:
    """Layouts that the products brought are undone: no bytes are moved twice."""
    block = Block()
    graph = block.mixed(separate(block))
    RecogniseExperts()(graph)
    (node,) = graph.of_op("experts")
    assert [graph.weights[node.input(index)].label for index in (GATE, UP)] == ["block.experts.gate", "block.experts.up"]


def refused(block: Block, made: str) -> str:
    """The one refusal, after which the graph is what it was."""
    graph = block.mixed(made)
    before = ops_of(graph)
    after, result = applied(graph, RecogniseExperts())
    assert ops_of(after) == before and len(result.refusals) == 1 and result.changes == 0
    return result.refusals[0]


def test_refusals() -> None:
    """Other activations, other inputs, and products that are none of all experts stay, each with its reason."""
    block = Block()
    assert "no gated activation" in refused(block, block.down(block("mul", block("tanh", block.product("gate")), block.product("up"))))
    block = Block()
    other = block("mul", block.x, block.number(2))
    assert "different inputs" in refused(block, block.down(block("mul", block("silu", block.product("gate")), block.product("up", x=other))))
    block = Block()
    assert "last product" in refused(block, block("relu", separate(block)))
    block = Block()
    stack = parameter(block.graph, "extra", COUNT, 1, WIDTH)
    made = block.down(block("mul", block("mul", block("silu", block.product("gate")), block.product("up")), stack))
    assert "between their products" in refused(block, made)


def test_a_one_hot_that_is_no_choice_of_experts_is_left_alone() -> None:
    """Without a word."""
    graph = Graph("g")
    ids = graph.add_input("ids", "int32", ("batch", 2))
    graph.outputs["y"] = graph.add_node("reduce_sum", [graph.add_node("one_hot", [ids], depth=3, dtype="float32")], axes=(1,), keepdims=False)
    after, result = applied(graph, RecogniseExperts())
    assert ops_of(after) == ops_of(graph) and not result.refusals
