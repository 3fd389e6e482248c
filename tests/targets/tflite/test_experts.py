"""Mixtures of experts in LiteRT: a step takes its experts' matrices out of all, several tokens multiply with all; what a step reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.targets.base import EmitOptions
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import LOWERINGS
from kexport.targets.tflite.model_file import ModelFile, Subgraph
from kexport.targets.tflite.records import weight_bytes

from tests.targets.mixtures import COUNT, HIDDEN, MIXTURES, Mixture, expert_bytes, rows
from tests.targets.onnx.toys import Toy, decoder
from tests.targets.tflite.helpers import write
from tests.targets.tflite.test_lowerings import by_litert

BOUND = 2e-6  # of the largest number
PADDING = 1024  # bytes of alignment


def written(mixture: Mixture, tokens: int, path: Path, stored_dtype: str = "float32") -> tuple[Any, Subgraph]:
    """The graph, and its only signature in a file."""
    graph, file = mixture.graph(tokens=(1, tokens)), ModelFile()
    builder = Builder(graph, "run", {}, cache_length=8, options=EmitOptions(8, stored_dtype=stored_dtype))
    builder.set("x", builder.add_input("x", "float32", (1, tokens, HIDDEN)))
    for node in graph.nodes:
        LOWERINGS[node.op].lower(node, builder)
    subgraph = builder.finish(file, {"y": builder.value(graph.outputs["y"])})
    file.subgraphs.append(subgraph)
    file.write(path, mixture.source(graph))
    return graph, subgraph


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "plain kernels"])
@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("name", MIXTURES)
def test_the_interpreters_numbers(name: str, tokens: int, xnnpack: bool, tmp_path: Path) -> None:
    """One token and several, with the XNNPACK delegate and without."""
    mixture = MIXTURES[name]
    graph, subgraph = written(mixture, tokens, tmp_path / "model.tflite")
    sparse = tokens == 1 and mixture.taken < COUNT
    taken = mixture.taken * (6 if mixture.form == "gpt-oss" else 3)
    forms = [operator.form for operator in subgraph.operators]
    assert (forms.count("GATHER"), forms.count("BATCH_MATMUL")) == ((taken, 0) if sparse else (0, 3))
    x = rows(1, tokens)
    got = by_litert(tmp_path / "model.tflite", {"x": x}, xnnpack=xnnpack)["y"]
    want = run(graph, {"x": x}, mixture.source(graph))["y"]
    assert got.shape == want.shape and np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("form", ["silu", "gpt-oss"])
def test_what_a_step_reads(form: str, stored: str, tmp_path: Path) -> None:
    """Of the experts one token's share, as narrow as they are stored; several tokens read them all."""
    mixture = MIXTURES[form]
    (graph, step), (_, several) = (written(mixture, tokens, tmp_path / "model.tflite", stored) for tokens in (1, 7))
    router = HIDDEN * COUNT * 4
    assert 0 <= weight_bytes(step) - router - expert_bytes(graph, stored) * mixture.taken // COUNT < 200
    assert 0 <= weight_bytes(several) - router - expert_bytes(graph) < 200


def test_the_matrices_stand_in_the_file_once(tmp_path: Path) -> None:
    """Decoding and prefill share them: twice as many experts are as many bytes more as their weights have. The record tells of the step."""
    sizes, weights = [], []
    for count in (COUNT, 2 * COUNT):
        (tmp_path / str(count)).mkdir()
        files = write(tmp_path / str(count), decoder(Toy(layers=2, experts=count)), capacity=24)
        sizes.append((tmp_path / str(count) / "model.tflite").stat().st_size)
        weights.append(sum(weight.nbytes for weight in files.graphs["extend"].weights.values()))
        assert [(record.layer, record.sparse) for record in files.emitted.experts] == [("layer0.experts", True), ("layer1.experts", True)]
    assert abs((sizes[1] - sizes[0]) - (weights[1] - weights[0])) < PADDING
