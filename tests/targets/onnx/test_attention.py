"""Attention without a self cache: encoders, cross-attention, and forms that no fused operator takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.weights import Parameter
from kexport.targets.onnx.unfusable import SHARED_CACHE

from tests.targets.onnx.toys import CAPACITY, OnnxRunner, Reference, Toy, decoder, encoder, op_counts, write

BOUND = 5e-6
BATCH, WIDTH, LENGTHS = 3, 6, (6, 2, 4)


def encoded(files: Any, ids: Any, mask: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder's outputs by the file (ONNX names) and by the interpreter (graph names)."""
    session = files.session("encode")
    names = [value.name for value in session.get_outputs()]
    ours = session.run(None, {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)})
    expected = run(files.graphs["encode"], {"encoder_token_ids": ids.astype(np.int32), "encoder_padding_mask": mask}, files.source)
    return dict(zip(names, ours, strict=True)), expected


@pytest.mark.parametrize(
    "options", [{}, {"head_dim": 8}, {"head_dim": 20}, {"packed": False, "bias": True}, {"norm": "layer_norm", "activation": "gelu"}]
)
def test_encoder_and_decoder(options: dict[str, Any], tmp_path: Path) -> None:
    """Encoder, cross caches and a ragged prefill plus steps equal the interpreter, padded encoder rows included."""
    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True, tied=True, **options)
    files = write(tmp_path, encoder(toy), decoder(toy))
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(0, toy.vocabulary, (BATCH, WIDTH)), np.arange(WIDTH) < np.array(LENGTHS)[:, None]
    ours, expected = encoded(files, ids, mask)
    hidden = ours.pop("last_hidden_state")
    np.testing.assert_allclose(hidden[mask], expected["hidden"][mask], atol=BOUND)
    for index in range(toy.layers):
        for part in ("key", "value"):
            got = ours[f"present.{index}.encoder.{part}"].transpose(0, 2, 1, 3)
            np.testing.assert_allclose(got[mask], expected[f"cross.{index}.{part}"][mask], atol=BOUND)
    extra = {name.replace("present", "past_key_values"): array for name, array in ours.items()} | {
        "encoder_attention_mask": mask.astype(np.int64)
    }
    runner = OnnxRunner(files, BATCH, extra=extra)
    reference = Reference(
        files.graphs["extend"], files.source, BATCH, cross={name: value for name, value in expected.items() if name != "hidden"}
    )
    reference.extra["encoder_padding_mask"] = mask
    counts = np.array([3, 1, 2])
    tokens = rng.integers(0, toy.vocabulary, (BATCH, 3))
    for _ in range(5):
        got, want = runner.extend(tokens, counts), reference.extend(tokens, counts)
        assert np.abs(got - want).max() < BOUND * want.std()
        tokens, counts = rng.integers(0, toy.vocabulary, (BATCH, 1)), np.ones(BATCH, np.int64)
    without = Reference(
        files.graphs["extend"], files.source, BATCH, cross={name: value for name, value in expected.items() if name != "hidden"}
    )
    without.extra["encoder_padding_mask"] = np.ones_like(mask)
    first = np.array([[3], [4], [5]])
    masked = OnnxRunner(files, BATCH, extra=extra).extend(first, np.ones(BATCH, np.int64))
    assert np.abs(masked - without.extend(first, np.ones(BATCH, np.int64)))[1].max() > 1e-2  # the mask matters


def test_encoder_decoder_form(tmp_path: Path) -> None:
    """Names are optimum's, cross-attention is one operator, cross caches are laid out once by the encoder."""
    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True)
    files = write(tmp_path, encoder(toy), decoder(toy))
    assert [(s.name, s.file, s.returns_logits) for s in files.emitted.signatures] == [
        ("encode", "encoder_model.onnx", "none"), ("extend", "decoder_model.onnx", "last"),
    ]  # fmt: skip
    inputs = [value.name for value in files.session().get_inputs()]
    assert inputs[:4] == ["input_ids", "attention_mask", "encoder_attention_mask", "position_ids"]
    assert {"past_key_values.1.decoder.key", "past_key_values.1.encoder.value"} <= set(inputs)
    assert [value.name for value in files.session().get_outputs()] == [
        "logits", *(f"present.{i}.decoder.{part}" for i in range(2) for part in ("key", "value"))
    ]  # fmt: skip
    counts = op_counts(files)
    assert (counts["GroupQueryAttention"], counts["MultiHeadAttention"]) == (2, 2)
    assert not {"Transpose", "Reshape", "Split"} & set(counts)
    cache = files.emitted.cache
    assert cache.layers == (("self.0", "cross.0"), ("self.1", "cross.1"))
    cross = next(slot for slot in cache.slots if slot.name == "cross.1")
    assert cross.inputs == ("past_key_values.1.encoder.key", "past_key_values.1.encoder.value")
    assert cross.outputs == ("present.1.encoder.key", "present.1.encoder.value")
    assert {fusion.form for fusion in files.emitted.fusions} == {"GroupQueryAttention", "MultiHeadAttention"}


FORMS: dict[str, tuple[dict[str, Any], set[str], int, str]] = {
    "causal": ({"causal": True}, {"positions"}, 4, "MultiHeadAttention"),
    "window": ({"causal": True, "window": 2}, {"positions"}, 4, "MultiHeadAttention"),
    "mask": ({}, {"mask"}, 4, "MultiHeadAttention"),
    "mask and key mask": ({}, {"mask", "key_mask"}, 4, "MultiHeadAttention"),
    "bias": ({}, {"bias"}, 4, "MultiHeadAttention"),
    "bias and slopes": ({"causal": True}, {"bias", "slopes", "positions"}, 4, "MultiHeadAttention"),
    "grouped": ({"causal": True}, {"positions"}, 2, "MatMul-Softmax-MatMul"),
    "one key head": ({}, {"key_mask"}, 1, "MatMul-Softmax-MatMul"),
    "softcap": ({"softcap": 2.0}, {"key_mask"}, 4, "MatMul-Softmax-MatMul"),
    "sinks": ({}, {"sinks", "bias"}, 4, "MatMul-Softmax-MatMul"),
}


def free_attention(attrs: dict[str, Any], given: set[str], kv_heads: int, head_dim: int) -> Graph:
    """Attention over given keys and values."""
    graph = Graph("free")
    heads, shape = 4, ("batch", "sequence")
    query = graph.add_input("query", "float32", (*shape, heads, head_dim))
    key, value = (graph.add_input(name, "float32", ("batch", "sequence", kv_heads, head_dim)) for name in ("key", "value"))
    kinds: dict[str, tuple[str, tuple[Any, ...]]] = {
        "positions": ("int32", shape),
        "bias": ("float32", (1, heads, "sequence", "sequence")), "mask": ("bool", ("batch", 1, "sequence", "sequence")),
        "key_mask": ("bool", ("batch", "sequence")), "sinks": ("float32", (heads,)), "slopes": ("float32", (heads,)),
    }  # fmt: skip
    names = [query, key, value, *("" for _ in kinds)]
    for place, name in enumerate(("positions", "bias", "mask", "key_mask", "sinks", "slopes"), 3):
        if name in given:
            names[place] = graph.add_input(name, *kinds[name])
    graph.outputs["y"] = graph.add_node("attention", names, layer="free", scale=0.3, **attrs)
    return graph


@pytest.mark.parametrize("head_dim", [8, 20])
@pytest.mark.parametrize("name", FORMS)
def test_attention_over_given_keys(name: str, head_dim: int, tmp_path: Path) -> None:
    """Every combination of masks equals the interpreter, fused where an operator takes it, and the manifest says which."""
    attrs, given, kv_heads, form = FORMS[name]
    graph = free_attention(attrs, given, kv_heads, head_dim)
    files = write(tmp_path, graph)
    assert files.emitted.fusions[0].form == form
    assert files.emitted.fusions[0].fused == (form != "MatMul-Softmax-MatMul")
    rng, (rows, length) = np.random.default_rng(2), (2, 5)
    feeds: dict[str, Any] = {}
    for input_name, type_ in graph.inputs.items():
        shape = tuple({"batch": rows, "sequence": length}.get(str(size), size) for size in type_.shape)
        feeds[input_name] = rng.standard_normal(shape).astype(np.float32)
    if "positions" in feeds:
        feeds["positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    if "key_mask" in feeds:
        feeds["key_mask"] = np.arange(length) < np.array([[5], [3]])
    if "mask" in feeds:
        feeds["mask"] = rng.integers(0, 2, (rows, 1, length, length)).astype(bool) | np.eye(length, dtype=bool)
    expected = run(graph, feeds)["y"]
    session = files.session("free")
    renamed = {"positions": "position_ids"}
    wide = {"position_ids"}
    (got,) = session.run(None, {renamed.get(k, k): v.astype(np.int64) if renamed.get(k, k) in wide else v for k, v in feeds.items()})
    seen = feeds["key_mask"] if "key_mask" in feeds else np.ones((rows, length), bool)
    np.testing.assert_allclose(got[seen], expected[seen], atol=BOUND)


def test_layer_that_reads_another_layers_cache(tmp_path: Path) -> None:
    """A layer without keys of its own attends to what another layer wrote, its window included; the plain form says why it is not fused."""
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
    from tests.targets.onnx.toys import compare

    assert compare(files, capacity=CAPACITY).difference < BOUND
    again = next(fusion for fusion in files.emitted.fusions if fusion.layer == "again")
    assert not again.fused and again.reason == SHARED_CACHE and not again.fusable


def test_cross_cache_of_grouped_heads(tmp_path: Path) -> None:
    """Cross-attention with fewer key-value heads than query heads runs as plain operators over the same cache."""
    graph = Graph("extend")
    query = graph.add_input("query", "float32", ("batch", "sequence", 4, 8))
    mask = graph.add_input("encoder_padding_mask", "bool", ("batch", "encoder_sequence"))
    graph.slots["cross.0"] = Slot("cross", 2, 8, 8)
    graph.outputs["y"] = graph.add_node("attention", [query, "", "", "", "", "", mask], slot="cross.0", scale=0.3)
    files = write(tmp_path, graph)
    rng = np.random.default_rng(4)
    key, value = (rng.standard_normal((2, 5, 2, 8)).astype(np.float32) for _ in range(2))
    feeds = {"query": rng.standard_normal((2, 3, 4, 8)).astype(np.float32), "encoder_padding_mask": np.arange(5) < np.array([[5], [2]])}
    expected = run(graph, feeds, None, {"cross.0": [key, value]})["y"]
    past = {f"past_key_values.0.{part}": array.transpose(0, 2, 1, 3) for part, array in (("key", key), ("value", value))}
    got = files.session().run(
        None, {"query": feeds["query"], "encoder_attention_mask": feeds["encoder_padding_mask"].astype(np.int64), **past}
    )[0]
    np.testing.assert_allclose(got, expected, atol=BOUND)
