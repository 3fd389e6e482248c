"""Uncached forwards as graphs: the interpreter equals Keras on ragged, padded batches, from live models and from abstract ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph

from tests.seed_models import MODELS
from tests.zoo import ZOO
from tests.zoo.multimodal import GEMMA3_TOKENS, GEMMA3_VISION
from tests.zoo.variant import VOCABULARY as ZOO_VOCABULARY

pytestmark = pytest.mark.slow
BOUND = 1e-5  # of the spread of the original's numbers at a position
DECODERS = ("bloom", "mistral", "gemma", "gemma2")
LENGTHS = (11, 4, 30)


def ragged(vocabulary: int, seed: int, prefix: str = "") -> dict[str, Any]:
    """Ids and mask of three rows of different lengths, longer than the seed models' windows."""
    generator = np.random.default_rng(seed)
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    return {f"{prefix}token_ids": (generator.integers(1, vocabulary, mask.shape) * mask).astype(np.int32), f"{prefix}padding_mask": mask}


def live_weights(model: Any) -> Any:
    """Weights read off the object."""
    from kexport.graphs.capture.live import LiveWeights

    return LiveWeights(model.variables)


def share(ours: Any, theirs: Any) -> float:
    """The largest difference, in spreads over the last axis."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    spread = theirs.max(axis=-1, keepdims=True) - theirs.min(axis=-1, keepdims=True)
    return float((np.abs(ours - theirs) / spread).max())


def assert_equal(ours: Any, theirs: Any) -> None:
    """Within BOUND of the spread over the last axis."""
    assert share(ours, theirs) <= BOUND


def assert_graph_equal(graph: Any, feeds: Any, weights: Any, theirs: Any) -> None:
    """Each output within BOUND; where the model amplifies rounding beyond it (Qwen3.5's mixture does), as close to exact arithmetic as float32 brings the graph."""
    from kexport.converter.parity.attribution import widened
    from kexport.converter.parity.tolerances import AS_CLOSE_AS

    outputs = run(graph, feeds, weights)
    assert sorted(outputs) == sorted(theirs)
    for name, ours in outputs.items():
        if not share(ours, theirs[name]) <= BOUND:
            exact = run(widened(graph), feeds, weights)[name]
            assert np.abs(theirs[name] - exact).max() <= AS_CLOSE_AS * np.abs(ours - exact).max() < 10 * BOUND * np.ptp(exact)


@pytest.mark.parametrize("name", DECODERS)
def test_score_is_the_plain_forward(name: str, task_of: Callable[[str], Any]) -> None:
    """At every position, padding included."""
    from kexport.graphs.capture.forward import capture_forward

    task = task_of(name)
    graph, _ = capture_forward(task, "score")
    feeds = ragged(graph.type_of(graph.outputs["logits"]).shape[-1], 1)
    assert_equal(run(graph, feeds, live_weights(task))["logits"], task(feeds))
    assert not graph.slots


def test_a_model_of_images_scores_texts() -> None:
    """What it gives for an image that no token stands for is what it scores; other families with towers are refused by their inputs."""
    from kexport.graphs.capture.forward import run_stock

    task, feeds = ZOO["gemma3, images"].build(), ragged(ZOO_VOCABULARY, 9)
    rows, length = feeds["token_ids"].shape
    nothing = {"vision_indices": np.zeros((rows, GEMMA3_TOKENS), np.int32), "vision_mask": np.zeros((rows, length), np.int32)}
    size = GEMMA3_VISION["image_size"]
    called = task({**feeds, "padding_mask": feeds["padding_mask"].astype(np.int32), "images": np.ones((rows, 1, size, size, 3), np.float32), **nothing})
    assert_equal(run_stock(task, "score", feeds)["logits"], called)


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].scores])
def test_score_of_every_family(name: str) -> None:
    """With every layer's attention and recurrence recognised, windows included, in the form the targets take, and for targets of fixed shapes."""
    from kexport.graphs.capture.forward import capture_forward, run_stock
    from kexport.graphs.passes import optimise_forward, run_passes

    variant, feeds = ZOO[name], ragged(ZOO_VOCABULARY, 8)
    task, signature = variant.build(), "score_layers" if variant.shows_layers else "score"
    graph, notes = capture_forward(task, signature)
    run_passes(graph, optimise_forward())
    theirs = run_stock(task, signature, feeds)
    assert_graph_equal(graph, feeds, live_weights(task), theirs)
    assert notes == [] and len(list(graph.of_op("attention", "delta_rule_rows"))) == variant.layers
    assert len(theirs.get("hidden_states", range(variant.layers + 1))) == variant.layers + 1
    assert_padding_is_free(graph, feeds, live_weights(task))


def assert_padding_is_free(graph: Graph, feeds: dict[str, Any], weights: Any) -> None:
    """A row that ends in front of the graph's length gives, at each position of its own, what it gives alone."""
    from kexport.graphs.passes import EndRows
    from kexport.graphs.passes.end_rows import rows_mixed
    from kexport.targets.lowerable import bound

    row = {name: array[1:2] for name, array in feeds.items()}
    longer = {name: np.pad(array, ((0, 0), (0, 13)), constant_values=-1 if name.endswith("token_ids") else 0) for name, array in row.items()}
    assert rows_mixed(graph) == []
    ended = bound(graph, {"batch": 1})
    result = EndRows()(ended)
    assert result.refusals == [] and result.changes
    ours, alone = run(ended, longer, weights), run(graph, row, weights)
    for name, array in alone.items():
        assert_equal(ours[name][tuple(map(slice, array.shape))], array)


@pytest.mark.parametrize("name", DECODERS)
def test_an_abstract_model_gives_the_same_graph(name: str, task_of: Callable[[str], Any], stock: Any) -> None:
    """No weight is read while capturing."""
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.graphs.capture.forward import capture_forward
    from kexport.graphs.serialize import dumps

    graph, _ = capture_forward(task_of(name), "score")
    with abstract_weights(smallest_matrix=0):
        abstract = stock.bare(MODELS[name])
    assert dumps(capture_forward(abstract, "score")[0]) == dumps(graph)


@pytest.mark.parametrize("name", DECODERS)
def test_hidden_states_are_what_a_layer_intercept_sees(name: str, task_of: Callable[[str], Any]) -> None:
    """Through the family's own score() where it has one; Bloom has none, there the layers' outputs count."""
    from kexport.graphs.capture.forward import capture_forward

    task = task_of(name)
    graph, _ = capture_forward(task, "score_layers")
    feeds = ragged(graph.type_of(graph.outputs["logits"]).shape[-1], 2)
    outputs = run(graph, feeds, live_weights(task))
    seen: list[Any] = []
    if hasattr(task, "score"):
        task.score(feeds["token_ids"], padding_mask=feeds["padding_mask"], layer_intercept_fn=lambda x, index: seen.append(np.asarray(x)) or x)
    else:
        x = task.backbone.token_embedding(feeds["token_ids"])
        seen.append(np.asarray(x))
        x = task.backbone.embeddings_layer_norm(x)
        for layer in task.backbone.transformer_layers:
            x = layer(x, decoder_padding_mask=feeds["padding_mask"])
            seen.append(np.asarray(x))
    assert_equal(outputs["hidden_states"], np.stack(seen))
    assert_equal(outputs["logits"], task(feeds))


def test_barts_two_outputs(task_of: Callable[[str], Any]) -> None:
    """Encoder and decoder rows of their own lengths."""
    from kexport.graphs.capture.forward import capture_forward

    backbone = task_of("bart").backbone
    graph, _ = capture_forward(backbone, "backbone")
    feeds = {**ragged(backbone.vocabulary_size, 3, "encoder_"), **ragged(backbone.vocabulary_size, 4, "decoder_")}
    feeds = {name: array[:, :17] if name.startswith("decoder_") else array for name, array in feeds.items()}
    theirs = backbone(feeds)
    ours = run(graph, feeds, live_weights(backbone))
    assert sorted(ours) == sorted(theirs) == ["decoder_sequence_output", "encoder_sequence_output"]
    for name, array in ours.items():
        assert_equal(array, theirs[name])


def encoders() -> dict[str, Any]:
    """One tiny backbone of each encoder family, by name."""
    from keras_hub import models

    sizes = {"vocabulary_size": 96, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 64}
    return {
        "bert": models.BertBackbone(**sizes, max_sequence_length=40),
        "roberta": models.RobertaBackbone(**sizes, max_sequence_length=40),
        "distil_bert": models.DistilBertBackbone(**sizes, max_sequence_length=40),
        "albert": models.AlbertBackbone(**sizes, max_sequence_length=40, embedding_dim=16),
    }


@pytest.mark.parametrize("name", ["bert", "roberta", "distil_bert", "albert"])
def test_encoders(name: str) -> None:
    """Whatever inputs and outputs they have."""
    from kexport.graphs.capture.forward import capture_forward, forward_inputs

    backbone = encoders()[name]
    graph, _ = capture_forward(backbone, "backbone")
    feeds = ragged(96, 5)
    if "segment_ids" in forward_inputs(backbone):
        feeds["segment_ids"] = np.random.default_rng(6).integers(0, 2, feeds["token_ids"].shape).astype(np.int32)
    theirs = backbone(feeds)
    ours = run(graph, feeds, live_weights(backbone))
    for output, array in (theirs if isinstance(theirs, dict) else {"sequence_output": theirs}).items():
        assert_equal(ours[output], array)


def test_a_backbone_of_a_decoder_and_its_embedding(task_of: Callable[[str], Any]) -> None:
    """One output without a name; `embed` is the embedding layer alone."""
    from kexport.graphs.capture.forward import capture_forward

    backbone = task_of("gemma").backbone
    feeds = ragged(backbone.vocabulary_size, 7)
    graph, _ = capture_forward(backbone, "backbone")
    assert_equal(run(graph, feeds, live_weights(backbone))["sequence_output"], backbone(feeds))
    embed, _ = capture_forward(backbone, "embed")
    ours = run(embed, {"token_ids": feeds["token_ids"]}, live_weights(backbone))["embeddings"]
    assert np.array_equal(ours, np.asarray(backbone.token_embedding(feeds["token_ids"])))
