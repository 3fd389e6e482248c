"""Mixtures of experts alone, with the routers that models have: what every target's experts are tested with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.graphs.ir import Graph
from kexport.graphs.ops.experts import BIASES, MATRICES
from kexport.runtime.contract.dtypes import item_size

from tests.targets.onnx.toys import EXPERT_FORMS, RandomSource, experts, source_of

COUNT, HIDDEN = 6, 16
ROUTER = "mixture.router"


@dataclass(frozen=True)
class Mixture:
    """`normalised`: the weights of a token add up to 1. `tied`: the router likes all experts alike."""

    form: str = "silu"
    taken: int = 2
    normalised: bool = True
    tied: bool = False

    def graph(self, name: str = "score", tokens: Any = ("batch", "sequence")) -> Graph:
        """x [batch, sequence, hidden] -> y."""
        graph = Graph(name)
        x = graph.add_input("x", "float32", (*tokens, HIDDEN))
        rows = "batch*sequence" if tokens == ("batch", "sequence") else int(np.prod(tokens))
        flat = graph.add_node("reshape", [x], shape=(rows, HIDDEN))
        mixed = experts(graph, flat, "mixture", count=COUNT, taken=self.taken, form=self.form, normalised=self.normalised)
        graph.outputs["y"] = graph.add_node("reshape", [mixed], shape=(*tokens, HIDDEN))
        return graph

    def source(self, graph: Graph) -> RandomSource:
        """Random numbers, none in the router of a tied mixture."""
        source = source_of(graph, scale=2.0)
        return _Tied(source.shapes, source.scale) if self.tied else source


class _Tied(RandomSource):
    def read(self, name: str) -> Any:
        array = super().read(name)
        return array * 0 if name.startswith(ROUTER) else array


MIXTURES = {
    "silu": Mixture(),
    "one expert a token": Mixture(taken=1),
    "as many as there are": Mixture(taken=COUNT),
    "weights that do not add up to 1": Mixture(normalised=False),
    "ties": Mixture(tied=True, taken=3),
    "gpt-oss": Mixture("gpt-oss"),
    "gpt-oss, weights that do not add up to 1": Mixture("gpt-oss", taken=3, normalised=False),
    "gelu": Mixture("gelu"),
    "gelu, one expert a token": Mixture("gelu", taken=1),
}
TOKENS = ((1, 1), (1, 7), (3, 1), (2, 5))


def rows(batch: int, sequence: int) -> Any:
    """Numbers to mix."""
    return np.random.default_rng(batch * 100 + sequence).standard_normal((batch, sequence, HIDDEN)).astype(np.float32)


def expert_bytes(graph: Graph, dtype: str = "float32") -> int:
    """Bytes of all weights of all experts."""
    nodes = list(graph.of_op("experts"))
    found = [graph.weights[node.input(index)] for node in nodes for index in (*MATRICES, *BIASES) if node.input(index)]
    return sum(weight.nbytes for weight in found) // item_size("float32") * item_size(dtype)


__all__ = ["COUNT", "EXPERT_FORMS", "HIDDEN", "MIXTURES", "TOKENS", "Mixture", "expert_bytes", "rows"]
