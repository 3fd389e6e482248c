"""Attention without a state, or with a bias over one: encoders, cross-attention, and attention over given keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.errors import UnsupportedError
from kexport.targets.base import EmitOptions
from kexport.targets.openvino import emit

from tests.targets.onnx.test_attention import FORMS, free_attention
from tests.targets.onnx.toys import CAPACITY, RandomSource, Toy, decoder, encoder
from tests.targets.openvino.runs import EXACT, compare, kernels, operators, write

BOUND = 1e-5
BATCH, WIDTH, LENGTHS = 3, 6, (6, 2, 4)
CROSS: dict[str, Any] = {"cross": True, "kv_heads": 4, "rope": False, "learned_positions": True}


@pytest.mark.parametrize(
    "options", [{}, {"head_dim": 8}, {"head_dim": 20}, {"packed": False, "bias": True}, {"norm": "layer_norm", "activation": "gelu"}]
)
def test_encoder_and_decoder(options: dict[str, Any], tmp_path: Path) -> None:
    """Encoder, cross caches, a ragged prefill and steps equal the interpreter, padded encoder rows included; the encoder's mask matters."""
    toy = Toy(tied=True, **CROSS, **options)
    files = write(tmp_path, encoder(toy), decoder(toy))
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(0, toy.vocabulary, (BATCH, WIDTH)), np.arange(WIDTH) < np.array(LENGTHS)[:, None]
    encoded = run(files.graphs["encode"], {"encoder_token_ids": ids.astype(np.int32), "encoder_padding_mask": mask}, files.source)
    cross = {name: value for name, value in encoded.items() if name != "hidden"}
    reference, unmasked = files.reference(BATCH, cross=cross), files.reference(BATCH, cross=cross)
    reference.extra["encoder_padding_mask"], unmasked.extra["encoder_padding_mask"] = mask, np.ones_like(mask)
    with files.open() as engine:
        cache = engine.new_cache(BATCH, CAPACITY)
        engine.encode(ids, mask, cache)
        for counts in ((3, 1, 2), (1, 1, 1), (2, 1, 3), (1, 1, 1)):
            tokens = rng.integers(0, toy.vocabulary, (BATCH, max(counts)))
            got, want = engine.extend(cache, tokens, np.array(counts)), reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(got - want).max() < BOUND * want.std()
            assert np.abs(got - unmasked.extend(tokens, np.array(counts))[:, 0])[1].max() > 1e-2
        cache.reorder([2, 2, 0])
        got = engine.extend(cache, np.array([[7], [7], [9]]))
        assert (got[0] == got[1]).all() and np.abs(got[0] - got[2]).max() > 1e-2


def test_encoder_decoder_form(tmp_path: Path) -> None:
    """Two files; cross caches are the decoder's inputs, laid out once by the encoder; the decoder's own cache is fused state."""
    toy = Toy(**CROSS)
    files = write(tmp_path, encoder(toy), decoder(toy))
    assert [(s.name, s.file, s.returns_logits, s.padding_side) for s in files.emitted.signatures] == [
        ("encode", "openvino_encoder_model.xml", "none", "right"), ("extend", "openvino_decoder_model.xml", "last", "left"),
    ]  # fmt: skip
    encode, extend = files.emitted.signatures
    assert [spec.name for spec in encode.inputs] == ["input_ids", "attention_mask"]
    assert [(spec.name, spec.shape) for spec in encode.outputs][:2] == [
        ("last_hidden_state", ("batch", "encoder_sequence", 32)), ("present.0.encoder.key", ("batch", 4, "encoder_sequence", 16)),
    ]  # fmt: skip
    assert {"encoder_attention_mask", "position_ids", "beam_idx", "past_key_values.1.encoder.value"} <= {spec.name for spec in extend.inputs}
    assert kernels(files)["ScaledDotProductAttention"] == toy.layers
    cross = next(slot for slot in files.emitted.cache.slots if slot.name == "cross.1")
    assert cross.outputs == ("present.1.encoder.key", "present.1.encoder.value")
    assert files.emitted.cache.layers == (("self.0", "cross.0"), ("self.1", "cross.1"))
    own = [fusion for fusion in files.emitted.fusions if fusion.reason.startswith("fused with the cache")]
    assert len(own) == toy.layers and all(fusion.fused for fusion in own)


@pytest.mark.parametrize("head_dim", [8, 20])
@pytest.mark.parametrize("name", FORMS)
def test_attention_over_given_keys(name: str, head_dim: int, tmp_path: Path) -> None:
    """Every mask, bias, slope, sink, group and cap equals the interpreter."""
    attrs, given, kv_heads, _ = FORMS[name]
    graph = free_attention(attrs, given, kv_heads, head_dim)
    emitted = emit({"free": graph}, RandomSource({}), tmp_path, EmitOptions(8))
    rng, sizes = np.random.default_rng(4), {"batch": 2, "sequence": 5}
    feeds: dict[str, Any] = {}
    for label, type_ in graph.inputs.items():
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in type_.shape)
        feeds[label] = rng.standard_normal(shape).astype(np.float32) if type_.dtype == "float32" else np.ones(shape, type_.dtype)
    if "positions" in feeds:
        feeds["positions"] = np.tile(np.arange(5, dtype=np.int32), (2, 1))
    if "mask" in feeds:
        feeds["mask"] = np.tril(np.ones((2, 1, 5, 5), bool))
    if "key_mask" in feeds:
        feeds["key_mask"] = np.arange(5) < np.array([[5], [3]])
    (want,) = run(graph, feeds).values()
    (fusion,) = emitted.fusions
    assert fusion.fused == (fusion.form == "ScaledDotProductAttention") == (name not in ("softcap", "sinks"))
    wide = {"positions": "position_ids"}
    model = ov.Core().compile_model(tmp_path / "openvino_model.xml", "CPU", EXACT)
    inputs = {tensor.get_any_name() for tensor in model.inputs}
    named = {wide.get(label, label): array.astype(np.int64) if label in wide else array for label, array in feeds.items()}
    got = next(iter(model({label: array for label, array in named.items() if label in inputs}).values()))
    np.testing.assert_allclose(got, want, atol=BOUND)


def _graph_with(op: str, **attrs: Any) -> Graph:
    graph = Graph("extend")
    graph.add_input("token_ids", "int32", ("batch", "sequence"))
    positions = graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["self.0"] = Slot("self", 2, 8, 8)
    x = graph.add_input("x", "float32", ("batch", "sequence", 2, 8))
    if attrs.pop("computed", False):
        positions = graph.add_node("add", [positions, positions])
    inputs = {"cache_read": [], "cache_write": [x, positions], "attention": [x, x, x, positions]}[op]
    graph.outputs["y"] = graph.add_node(op, inputs, slot="self.0", **attrs)
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (_graph_with("cache_write", part=0, computed=True), "computed positions"),
        (_graph_with("cache_read", part=0), "read before it is written"),
        (_graph_with("attention", scale=1.0, write=True, causal=True, computed=True), "positions of its own"),
    ],
)
def test_caches_that_are_not_appended_to_are_refused(graph: Graph, words: str, tmp_path: Path) -> None:
    """A state grows at its end only; anything else is refused with the layer or slot."""
    with pytest.raises(UnsupportedError, match=words):
        emit({"extend": graph}, RandomSource({}), tmp_path, EmitOptions(8))


def test_layer_that_reads_another_layers_cache(tmp_path: Path) -> None:
    """A layer without keys of its own attends to what another layer wrote, its window included; the manifest says why it is not fused."""
    graph = decoder(Toy(layers=1))
    table = graph.constants["inverse_frequencies"]
    (first,) = (node for node in graph.nodes if node.op == "attention")
    x = graph.add_node("reshape", [first.output], shape=("batch", "sequence", 64))
    query = graph.add_node("linear", [x, graph.add_weight(Parameter((64, 64), "float32", "again.q"))])
    query = graph.add_node("reshape", [query], shape=("batch", "sequence", 4, 16))
    query = graph.add_node("rope", [query, "positions", graph.add_constant(table)])
    mixed = graph.add_node("attention", [query, "", "", "positions"], layer="again", slot="self.0", scale=0.25, causal=True, window=3)
    flat = graph.add_node("reshape", [mixed], shape=("batch", "sequence", 64))
    last = graph.add_node("last_token", [flat, "lengths"])
    graph.outputs["logits"] = graph.add_node("linear", [last, graph.add_weight(Parameter((64, 61), "float32", "again.head"))])
    files = write(tmp_path, graph)
    assert compare(files) < BOUND
    again = next(fusion for fusion in files.emitted.fusions if fusion.layer == "again")
    assert not again.fused and "another layer" in again.reason


@pytest.mark.parametrize("window", [None, 4])
def test_a_bias_by_position_is_fused_with_the_cache(window: int | None, tmp_path: Path) -> None:
    """Rows of different lengths, pieces and beams: the bias follows the state's order, and both layers share it."""
    graph = decoder(Toy(layers=2))
    attentions = [node for node in graph.nodes if node.op == "attention"]

    def add(op: str, *inputs: str, **attrs: Any) -> str:
        return graph.add_node(op, inputs, before=attentions[0], **attrs)

    distance = add("sub", add("range", size="total"), add("reshape", "positions", shape=("batch", 1, "sequence", 1)))
    heads = graph.add_constant(np.array([0.9, -0.5, 0.3, 0.05], np.float32).reshape(1, 4, 1, 1))
    bias = add("sin", add("mul", add("cast", distance, dtype="float32"), heads))
    for node in attentions:
        node.inputs = (*node.inputs[:4], bias)
        node.attrs["window"] = window
    files = write(tmp_path, graph)
    assert compare(files) < BOUND
    assert kernels(files)["ScaledDotProductAttention"] == 2 and operators(files)["Sin"] == 2  # one of them turns queries and keys
    assert all(fusion.fused and "bias" in fusion.reason for fusion in files.emitted.fusions)


def test_cross_cache_of_grouped_heads(tmp_path: Path) -> None:
    """Cross-attention with fewer key-value heads than query heads."""
    graph = Graph("extend")
    query = graph.add_input("query", "float32", ("batch", "sequence", 4, 8))
    mask = graph.add_input("encoder_padding_mask", "bool", ("batch", "encoder_sequence"))
    graph.slots["cross.0"] = Slot("cross", 2, 8, 8)
    graph.outputs["y"] = graph.add_node("attention", [query, "", "", "", "", "", mask], slot="cross.0", scale=0.3)
    emit({"extend": graph}, RandomSource({}), tmp_path, EmitOptions(8))
    rng = np.random.default_rng(4)
    key, value = (rng.standard_normal((2, 5, 2, 8)).astype(np.float32) for _ in range(2))
    feeds = {"query": rng.standard_normal((2, 3, 4, 8)).astype(np.float32), "encoder_padding_mask": np.arange(5) < np.array([[5], [2]])}
    expected = run(graph, feeds, None, {"cross.0": [key, value]})["y"]
    past = {f"past_key_values.0.{part}": array.transpose(0, 2, 1, 3).copy() for part, array in (("key", key), ("value", value))}
    model = ov.Core().compile_model(tmp_path / "openvino_model.xml", "CPU", EXACT)
    got = model({"query": feeds["query"], "encoder_attention_mask": feeds["encoder_padding_mask"].astype(np.int64), **past})["y"]
    np.testing.assert_allclose(got, expected, atol=BOUND)
