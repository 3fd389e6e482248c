"""Graphs over whole rows at fixed lengths: one file and one set of weights, rows of any length and any number, padding included; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.errors import InternalError, InvalidInputError, UnsupportedError
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.forward import Forward, open_forward

from tests.targets.onnx.toys import Toy, decoder
from tests.targets.tflite.helpers import BUCKETS, CAPACITY, Files, write
from tests.targets.tflite.test_files import model_of

WIDTH, HEADS, VOCABULARY, LAYERS = 16, 2, 37, 2


def parameter(graph: Graph, name: str, *shape: int) -> str:
    return graph.add_weight(Parameter(shape, "float32", name))


def attended(graph: Graph, x: str, mask: str, length: str) -> str:
    """Each token sees the real tokens up to itself, or, where there are none, nothing in particular: the mean of all."""
    heads = graph.add_node("reshape", [x], shape=("batch", length, HEADS, WIDTH // HEADS))
    hidden = graph.add_node("sub", [graph.add_constant(np.float32(1)), graph.add_node("cast", [mask], dtype="float32")])
    line = graph.add_node("reshape", [graph.add_node("mul", [hidden, graph.add_constant(np.float32(-1e9))])], shape=("batch", 1, 1, length))
    mixed = graph.add_node("attention", [heads, heads, heads, "", line], scale=0.5)
    return graph.add_node("add", [x, graph.add_node("reshape", [mixed], shape=("batch", length, WIDTH))])


def score_layers(name: str = "score_layers") -> Graph:
    """Ids and mask to logits, and the layers' outputs, whose rows are not their first axis."""
    graph = Graph(name)
    graph.add_input("token_ids", "int32", ("batch", "sequence"))
    graph.add_input("padding_mask", "bool", ("batch", "sequence"))
    x = graph.add_node("embedding", [parameter(graph, "embeddings", VOCABULARY, WIDTH), "token_ids"])
    states = [x]
    for _ in range(LAYERS):
        states.append(x := attended(graph, x, "padding_mask", "sequence"))
    graph.outputs["logits"] = graph.add_node("linear", [x, parameter(graph, "head", WIDTH, VOCABULARY)])
    lines = [graph.add_node("reshape", [state], shape=(1, "batch", "sequence", WIDTH)) for state in states]
    graph.outputs["hidden_states"] = graph.add_node("concat", lines, axis=0)
    return graph


def two_sides() -> Graph:
    """A backbone of two sides; the decoder's first token alone is an output without a length."""
    graph = Graph("backbone")
    table = parameter(graph, "embeddings", VOCABULARY, WIDTH)
    for side, length in (("encoder_", "encoder_sequence"), ("decoder_", "sequence")):
        graph.add_input(f"{side}token_ids", "int32", ("batch", length))
        graph.add_input(f"{side}padding_mask", "bool", ("batch", length))
        x = attended(graph, graph.add_node("embedding", [table, f"{side}token_ids"]), f"{side}padding_mask", length)
        graph.outputs[f"{side}sequence_output"] = x
    graph.outputs["pooled_output"] = graph.add_node("gather", [x, graph.add_constant(np.int32(0))], axis=1)
    return graph


def opened(files: Files) -> Forward:
    return open_forward(files.directory, files.manifest, EngineOptions(threads=1))


def rows(lengths: tuple[int, ...], prefix: str = "") -> dict[str, Any]:
    """Ragged rows; one row hides all of its tokens."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = np.random.default_rng(sum(lengths)).integers(0, VOCABULARY, mask.shape).astype(np.int32)
    return {f"{prefix}token_ids": ids, f"{prefix}padding_mask": mask}


@pytest.mark.parametrize("lengths", [(3,), (2, 4, 0), (5, 1), (8, 8), (9, 3), (CAPACITY, 7)])
def test_rows_of_any_length(lengths: tuple[int, ...], tmp_path: Path) -> None:
    """The numbers at every position are those of the graph on the rows alone, whatever length they are padded to."""
    files = write(tmp_path, {graph.name: graph for graph in (decoder(Toy(packed=False)), score_layers())})
    (record,) = (signature for signature in files.emitted.signatures if signature.name == "score_layers")
    assert record.sequence_lengths == (*BUCKETS, CAPACITY) and record.returns_logits == "all"
    assert [(spec.name, spec.dtype, spec.shape) for spec in record.inputs] == [
        ("token_ids", "int32", ("batch", "sequence")), ("padding_mask", "bool", ("batch", "sequence")),
    ]  # fmt: skip
    feeds = rows(lengths)
    expected = run(files.graphs["score_layers"], feeds, files.source)
    forward = opened(files)
    for _ in range(2):
        got = forward.run("score_layers", feeds)
        assert got.keys() == expected.keys() and got["hidden_states"].shape == (LAYERS + 1, *feeds["token_ids"].shape, WIDTH)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-4)
    forward.close()


def test_two_sides_of_a_backbone(tmp_path: Path) -> None:
    """Both are padded to the length that the longer one needs; there are no steps, no caches."""
    files = write(tmp_path, two_sides())
    assert [signature.name for signature in files.emitted.signatures] == ["backbone"] and not files.emitted.cache.slots
    feeds = rows((2, 6), "encoder_") | rows((3, 1), "decoder_")
    expected, got = run(files.graphs["backbone"], feeds, files.source), opened(files).run("backbone", feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_lengths_are_doubled_where_none_are_given(tmp_path: Path) -> None:
    """A row is computed at less than twice its length; weights stand in the file once for all of them."""
    files = write(tmp_path, score_layers("score"), capacity=300, prefill_buckets=())
    assert files.emitted.signatures[0].sequence_lengths == (64, 128, 256, 300)
    model = model_of(files.path)
    assert [definition.signatureKey.decode() for definition in model.signatureDefs] == ["score_64", "score_128", "score_256", "score_300"]
    assert sum(buffer.size for buffer in model.buffers if buffer.offset) == sum(np.prod(shape) * 4 for shape, _ in files.source.shapes.values())


def test_a_row_that_no_length_takes(tmp_path: Path) -> None:
    """Callers check the capacity; what gets here all the same is a bug and says so. A closed runner says that it is closed."""
    forward = opened(write(tmp_path, score_layers("score")))
    with pytest.raises(InternalError, match="41 tokens"):
        forward.run("score", rows((CAPACITY + 1,)))
    forward.close()
    with pytest.raises(InvalidInputError) as caught:
        forward.run("score", rows((3,)))
    assert caught.value.code == "KX550"


def test_a_model_that_mixes_tokens_is_refused(tmp_path: Path) -> None:
    """With the op's name: padding would change its results."""
    graph = score_layers("score")
    graph.outputs["mixed"] = graph.add_node("softmax", [graph.nodes[0].output], axis=1)
    with pytest.raises(UnsupportedError, match="`softmax` mixes the tokens") as caught:
        write(tmp_path, graph)
    assert caught.value.code == "KX382" and "savedmodel" in caught.value.hint


def test_litert_lm_gets_none(tmp_path: Path) -> None:
    """It would call none of them, and a backbone has nothing that it calls."""
    for graphs in ({"extend": decoder(Toy()), "score": score_layers("score")}, {"backbone": two_sides()}):
        with pytest.raises(UnsupportedError) as caught:
            write(tmp_path, graphs, package="litertlm")
        assert caught.value.code == "KX236"
