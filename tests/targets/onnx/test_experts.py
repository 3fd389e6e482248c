"""Mixtures of experts in onnxruntime: by the MoE operator, with the interpreter's numbers; what a step reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.targets.base import EmitOptions
from kexport.targets.onnx.emit import emit

from tests.targets.mixtures import COUNT, HIDDEN, MIXTURES, TOKENS, Mixture, expert_bytes, rows
from tests.targets.onnx.toys import Toy, decoder, op_counts, open_session, write

BOUND = 2e-6  # of the largest number
BY_OPERATOR = {name: mixture for name, mixture in MIXTURES.items() if mixture.form != "gelu"}


def written(graph: Graph, mixture: Mixture, directory: Path, **options: Any) -> Any:
    return emit({graph.name: graph}, mixture.source(graph), directory, EmitOptions(8, **options))


@pytest.mark.parametrize("name", MIXTURES)
def test_the_interpreters_numbers(name: str, tmp_path: Path) -> None:
    """One token and several, one row and several."""
    graph = MIXTURES[name].graph()
    emitted = written(graph, MIXTURES[name], tmp_path)
    session = open_session(tmp_path / emitted.signatures[0].file)
    for batch, sequence in TOKENS:
        x = rows(batch, sequence)
        (got,) = session.run(None, {"x": x})
        want = run(graph, {"x": x}, MIXTURES[name].source(graph))["y"]
        assert got.shape == want.shape and np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("name", MIXTURES)
def test_the_form_is_recorded(name: str, tmp_path: Path) -> None:
    """The operator where it has the gate, else all experts with the reason."""
    decoders = write(tmp_path, decoder(Toy(layers=2, experts=COUNT, taken=MIXTURES[name].taken, experts_form=MIXTURES[name].form)))
    sparse = name in BY_OPERATOR
    assert op_counts(decoders).get("MoE", 0) == (2 if sparse else 0)
    records = decoders.emitted.experts
    assert [record.layer for record in records] == ["layer0.experts", "layer1.experts"]
    assert {(record.count, record.taken, record.sparse) for record in records} == {(COUNT, MIXTURES[name].taken, sparse)}
    assert all(bool(record.reason) != sparse for record in records)


def test_weights_that_are_no_softmax_stay_with_plain_operators(tmp_path: Path) -> None:
    """The operator would take logarithms of them."""
    graph = Graph("score")
    x, ids = graph.add_input("x", "float32", ("batch", HIDDEN)), graph.add_input("ids", "int32", ("batch", 2))
    weights = graph.add_input("weights", "float32", ("batch", 2))
    source_graph = Mixture().graph()
    (node,) = source_graph.of_op("experts")
    for name in node.inputs[3:]:
        graph.add_weight(source_graph.weights[name])
    graph.outputs["y"] = graph.add_node("experts", [x, ids, weights, *node.inputs[3:]], activation="silu")
    emitted = written(graph, Mixture(), tmp_path)
    feeds = {"x": rows(1, 3)[0], "ids": np.array([[0, 1], [2, 2], [5, 0]], np.int32), "weights": np.array([[1, -1], [0, 2], [0, 0]], np.float32)}
    (got,) = open_session(tmp_path / emitted.signatures[0].file).run(None, feeds)
    want = run(graph, feeds, Mixture().source(graph))["y"]
    assert np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("name", ["silu", "gpt-oss", "gelu"])
def test_what_a_step_reads(name: str, stored: str, tmp_path: Path) -> None:
    """All weights, but of the experts one token's share; as wide as onnxruntime multiplies them."""
    mixture = MIXTURES[name]
    graph = mixture.graph()
    (signature,) = written(graph, mixture, tmp_path, stored_dtype=stored).signatures
    router = HIDDEN * COUNT * 4
    constants = signature.weight_bytes - router
    share = mixture.taken / COUNT if name in BY_OPERATOR else 1
    assert 0 <= constants - round(share * expert_bytes(graph)) < 200
