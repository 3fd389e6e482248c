"""An experts node read out once, with its weights in the orders that targets' kernels want."""

from __future__ import annotations

from dataclasses import dataclass

from kexport.graphs.dims import Dim, product
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.experts import DOWN, DOWN_BIAS, GATE, GATE_BIAS, IDS, UP, UP_BIAS, WEIGHTS, X
from kexport.graphs.weights import Weight, concatenate
from kexport.runtime.contract.manifest import Experts

OUT_FIRST = (0, 2, 1)


@dataclass(frozen=True, slots=True)
class Request:
    """An experts node: `count` experts, of which each of `tokens` takes `taken`. Matrices are [count, in, out], biases [count, out]."""

    node: Node
    tokens: Dim
    count: int
    taken: int
    hidden: int
    intermediate: int
    activation: str
    alpha: float
    limit: float | None
    offset: float
    gate: Weight
    up: Weight
    down: Weight
    gate_bias: Weight | None
    up_bias: Weight | None
    down_bias: Weight | None

    @property
    def x(self) -> str:
        """The value that the experts take."""
        return self.node.input(X)

    @property
    def ids(self) -> str:
        """Who takes which expert."""
        return self.node.input(IDS)

    @property
    def shares(self) -> str:
        """With what weight."""
        return self.node.input(WEIGHTS)

    def rows(self, weight: Weight) -> Weight:
        """A matrix of every expert as [count, out, in]."""
        return weight.transpose(OUT_FIRST)

    def halves(self) -> Weight:
        """Gates, then values: [count, 2 * intermediate, hidden]."""
        return concatenate((self.rows(self.gate), self.rows(self.up)), 1)

    def alternating(self) -> Weight:
        """Gate, value, gate, value, ...: [count, 2 * intermediate, hidden]."""
        return _alternating(self.rows(self.gate), self.rows(self.up))

    def halved_bias(self) -> Weight | None:
        """The biases of `halves`, [count, 2 * intermediate]."""
        return None if self.gate_bias is None or self.up_bias is None else concatenate((self.gate_bias, self.up_bias), 1)

    def alternating_bias(self) -> Weight | None:
        """The biases of `alternating`, [count, 2 * intermediate]."""
        return None if self.gate_bias is None or self.up_bias is None else _alternating(self.gate_bias, self.up_bias)

    def record(self, form: str, *, sparse: bool, reason: str = "") -> Experts:
        """The manifest's record of how the node was rendered."""
        return Experts(layer=self.node.layer or self.node.output, form=form, count=self.count, taken=self.taken, sparse=sparse, reason=reason)


def _alternating(first: Weight, second: Weight) -> Weight:
    count, size, *rest = first.shape
    pairs = concatenate(tuple(weight.reshape((count, size, 1, *rest)) for weight in (first, second)), 2)
    return pairs.reshape((count, 2 * size, *rest))


def read(node: Node, graph: Graph) -> Request:
    """Read an experts node out."""
    count, hidden, intermediate = graph.weights[node.input(GATE)].shape
    gate_bias, up_bias, down_bias = (graph.weights.get(node.input(index)) for index in (GATE_BIAS, UP_BIAS, DOWN_BIAS))
    limit = attribute(node, "limit")
    ids = graph.type_of(node.input(IDS)).shape
    return Request(
        node=node,
        tokens=product(ids[:-1]),
        count=count,
        taken=int(ids[-1]),
        hidden=hidden,
        intermediate=intermediate,
        activation=str(attribute(node, "activation")),
        alpha=float(attribute(node, "alpha")),
        limit=None if limit is None else float(limit),
        offset=float(attribute(node, "offset")),
        gate=graph.weights[node.input(GATE)],
        up=graph.weights[node.input(UP)],
        down=graph.weights[node.input(DOWN)],
        gate_bias=gate_bias,
        up_bias=up_bias,
        down_bias=down_bias,
    )
