"""A mixture of experts that computes every expert for every token becomes `experts`, which says that each token takes a few.

    share = transpose(reduce_sum(one_hot(ids, E) * weights))                        [E, tokens]
    gate, up = x [tokens, H] times weights [E, H, I] (+ biases [E, I])              any layout that KerasHub's products come in
    y = reduce_sum(share * (activation(gate, up) times down [E, I, H] + bias))      ->      y = experts(x, ids, weights, gate, up, down, ...)

A scale of each expert (Gemma 4) goes into the weights of the tokens that take it. What lies between the products is recognised by its numbers
(gated_form.py). Who takes which expert with what weight stays as the original computes it.

Refused: products of different inputs, an activation that is no known formula, weights that are not the graph's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.gated_form import Part, gated_form
from kexport.graphs.passes.subgraph import cut_out
from kexport.graphs.weights import Casted, Weight

EXPERTS_FIRST = (1, 0)
STACK = 3  # axes of [experts, tokens, columns]
LAYOUT = frozenset({"reshape", "transpose", "cast"})


class _Unlike(Exception):
    """The block is a mixture of experts, but not one that the op describes."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who takes which expert: ids and weights [tokens, k]; `mixed`: the node that multiplies the experts' results [experts, tokens, hidden]
    by the shares `share`; `result`: the node that adds them up."""

    ids: str
    weights: str
    share: str
    mixed: Node
    result: Node


@dataclass(frozen=True, slots=True)
class Product:
    """x [tokens, in] times `weight` [experts, in, out] (+ `bias` [experts, out])."""

    x: str
    weight: Weight
    bias: Weight | None


class RecogniseExperts(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("one_hot"):
            choice = _choice(graph, node)
            if choice is None:
                continue
            try:
                _replace(graph, choice)
                result.changes += 1
            except _Unlike as error:
                result.refusals.append(f"{choice.result.layer or choice.result.output}: every token computes every expert: {error}")


# ---- who takes which expert


def _choice(graph: Graph, one_hot: Node) -> Choice | None:
    scaled = _reader(graph, one_hot.output, "mul")
    summed = _reader(graph, scaled.output, "reduce_sum") if scaled else None
    if scaled is None or summed is None or attribute(summed, "axes") != (1,) or attribute(summed, "keepdims"):
        return None
    weights = _under_reshape(graph, _other(scaled, one_hot.output))
    ids = _under_cast(graph, one_hot.input(0))
    if graph.type_of(weights).shape != graph.type_of(ids).shape or len(graph.type_of(ids).shape) != len(EXPERTS_FIRST):
        return None
    share, turned = summed.output, 0
    while node := _reader(graph, share, *LAYOUT):
        turned += node.op == "transpose" and attribute(node, "permutation") == EXPERTS_FIRST
        share = node.output
    mixed = _reader(graph, share, "mul")
    result = _reader(graph, mixed.output, "reduce_sum") if mixed else None
    tokens, experts = graph.type_of(ids).shape[0], attribute(one_hot, "depth")
    if mixed is None or result is None or turned != 1 or graph.type_of(share).shape != (experts, tokens, 1):
        return None
    if attribute(result, "axes") != (0,) or attribute(result, "keepdims") or len(graph.type_of(mixed.output).shape) != STACK:
        return None
    return Choice(ids, weights, share, mixed, result)


def _reader(graph: Graph, value: str, *ops: str) -> Node | None:
    """The only node that reads `value`, if it is one of `ops`."""
    readers = graph.readers().get(value, [])
    return readers[0] if len(readers) == 1 and readers[0].op in ops and value not in graph.outputs.values() else None


def _other(node: Node, value: str) -> str:
    return node.input(1) if node.input(0) == value else node.input(0)


def _under_reshape(graph: Graph, value: str) -> str:
    node = graph.producers().get(value)
    return node.input(0) if node is not None and node.op == "reshape" else value


def _under_cast(graph: Graph, value: str) -> str:
    node = graph.producers().get(value)
    return node.input(0) if node is not None and node.op == "cast" and graph.type_of(node.input(0)).dtype == "int32" else value


# ---- what the experts compute


def _replace(graph: Graph, choice: Choice) -> None:
    made, scale = _scaled(graph, _other(choice.mixed, choice.share))
    hidden, down, down_bias = _last_product(graph, made)
    products = dict(_first_products(graph, hidden))
    form = gated_form(cut_out(graph, [hidden], stop_at=products), hidden)
    if form is None:
        raise _Unlike("what they compute between their products is no gated activation that kexport knows")
    gate, up = (products[part.of] for part in (form.gate, form.up))
    if gate.x != up.x or graph.type_of(choice.ids).dtype != "int32":
        raise _Unlike("their products take different inputs")
    layer = _layer(down)
    taken = choice.weights
    if scale is not None:
        own = graph.add_node("gather", [graph.add_weight(scale), choice.ids], axis=0, layer=layer, before=choice.result)
        taken = graph.add_node("mul", [choice.weights, own], layer=layer, before=choice.result)
    matrices = [graph.add_weight(weight) for weight in (_columns(gate.weight, form.gate), _columns(up.weight, form.up), down)]
    biases = [_bias(graph, weight) for weight in (_bias_columns(gate, form.gate), _bias_columns(up, form.up), down_bias)]
    while biases and not biases[-1]:
        biases.pop()
    new = graph.add_node("experts", [gate.x, choice.ids, taken, *matrices, *biases], layer=layer, before=choice.result, **form.attributes)
    graph.replace_uses(choice.result.output, new)
    graph.nodes.remove(choice.result)


def _columns(weight: Weight, part: Part) -> Weight:
    return weight.slice(len(weight.shape) - 1, part.start, part.stop, part.step)


def _bias_columns(product: Product, part: Part) -> Weight | None:
    return None if product.bias is None else _columns(product.bias, part)


def _bias(graph: Graph, weight: Weight | None) -> str:
    return "" if weight is None else graph.add_weight(weight)


def _layer(weight: Weight) -> str:
    """The layer that holds the experts, by the name of their parameter."""
    name = next(weight.parameters()).name
    return name.rpartition(".")[0].replace(".", "/")


def _scaled(graph: Graph, value: str) -> tuple[str, Weight | None]:
    """The experts' results without a scale of each, and that scale [experts]."""
    node = graph.producers().get(value)
    if node is None or node.op != "mul":
        return value, None
    for scaled, factor in (node.inputs, node.inputs[::-1]):
        weight = _of_experts(graph, factor, 1)
        if weight is not None:
            return scaled, _reshaped(weight, weight.shape[:1])
    return value, None


def _last_product(graph: Graph, value: str) -> tuple[str, Weight, Weight | None]:
    """Hidden values, weight [experts, in, out], and bias [experts, out]."""
    producers = graph.producers()
    node = producers.get(value)
    bias = None
    if node is not None and node.op == "add":
        for product, added in (node.inputs, node.inputs[::-1]):
            bias = _of_experts(graph, added, graph.type_of(value).shape[-1])
            if bias is not None:
                node = producers.get(product)
                break
    weight = graph.weights.get(node.input(1)) if node is not None and node.op == "matmul" else None
    if node is None or weight is None or len(weight.shape) != STACK:
        raise _Unlike("their last product is not one with a weight of all experts")
    return node.input(0), weight, bias


def _first_products(graph: Graph, hidden: str) -> Iterator[tuple[str, Product]]:
    """The products that `hidden` is computed from."""
    producers, seen, stack = graph.producers(), set(), [hidden]
    while stack:
        value = stack.pop()
        if value in seen or not value or value in graph.constants:
            continue
        seen.add(value)
        product = _product(graph, value)
        if product is not None:
            yield value, product
        elif value in producers:
            stack += producers[value].inputs
        else:
            raise _Unlike(f"they read `{value}` between their products")


def _product(graph: Graph, value: str) -> Product | None:
    """`value` [experts, tokens, out] as a product, with its bias where one is added."""
    if len(graph.type_of(value).shape) != STACK:
        return None
    producers = graph.producers()
    node = producers.get(value)
    if node is not None and node.op == "add":
        for summand, added in (node.inputs, node.inputs[::-1]):
            bias = _of_experts(graph, added, graph.type_of(value).shape[-1])
            product = _product(graph, summand) if bias is not None else None
            if product is not None and product.bias is None:
                return Product(product.x, product.weight, bias)
        return None
    return _plain_product(graph, node)


def _plain_product(graph: Graph, node: Node | None) -> Product | None:
    """transpose(reshape(x times [in, experts * out])), in which the traced product of all experts comes."""
    if node is None or node.op != "transpose" or attribute(node, "permutation") != (1, 0, 2):
        return None
    producers = graph.producers()
    stacked = producers.get(node.input(0))
    linear = producers.get(stacked.input(0)) if stacked is not None and stacked.op == "reshape" else None
    if stacked is None or linear is None or linear.op != "linear" or linear.input(2):
        return None
    weight, (tokens, experts, out) = graph.weights.get(linear.input(1)), graph.type_of(stacked.output).shape
    if weight is None or graph.type_of(linear.input(0)).shape != (tokens, weight.shape[0]):
        return None
    return Product(linear.input(0), _transposed(_reshaped(weight, (weight.shape[0], int(experts), int(out))), (1, 0, 2)), None)


def _of_experts(graph: Graph, value: str, size: object) -> Weight | None:
    """The weight [experts, size] behind `value` [experts, 1, size]."""
    weight = graph.weights.get(_under_reshape(graph, value))
    shape = graph.type_of(value).shape
    if weight is None or len(shape) != STACK or shape[1:] != (1, size):
        return None
    return _reshaped(weight, tuple(int(dim) for dim in (shape[0], shape[2])))


def _reshaped(weight: Weight, shape: tuple[int, ...]) -> Weight:
    """A cast stays outside, so that one layout change undoes another and a parameter comes back as itself."""
    return weight.of.reshape(shape).cast(weight.dtype) if isinstance(weight, Casted) else weight.reshape(shape)


def _transposed(weight: Weight, permutation: tuple[int, ...]) -> Weight:
    return weight.of.transpose(permutation).cast(weight.dtype) if isinstance(weight, Casted) else weight.transpose(permutation)
