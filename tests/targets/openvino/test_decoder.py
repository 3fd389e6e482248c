"""Whole decoders: the file's logits are the interpreter's in every configuration, and the plugin fuses what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from tests.targets.onnx.toys import Toy, decoder
from tests.targets.openvino.runs import compare, kernels, operators, write

BOUND = 1e-5  # in standard deviations of the logits
VISIBLE = 1e-2  # a feature that matters moves some logit at least this much, in the same unit

BLOOM: dict[str, Any] = {
    "alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "activation": "gelu", "kv_heads": 4, "tied": True,
}  # fmt: skip
GEMMA: dict[str, Any] = {"offset": 1.0, "tied": True, "kv_heads": 1, "activation": "gelu"}
GEMMA2: dict[str, Any] = GEMMA | {"softcap": 4.0, "windows": (4, None), "final_softcap": 30.0}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "separate projections": {"packed": False, "bias": True},
    "bloom": BLOOM,
    "bloom, separate": BLOOM | {"packed": False},
    "bloom with a window": BLOOM | {"windows": (4,)},
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "every head its own keys": {"kv_heads": 4},
    "head size 8": {"head_dim": 8},
    "head size 24": {"head_dim": 24},
    "head size 64": {"head_dim": 64, "kv_heads": 1},
    "head size 80": {"head_dim": 80, "heads": 2},
    "head size 20": {"head_dim": 20},
    "head size 20, no rope": {"head_dim": 20, "rope": False, "alibi": True},
    "keys of 20, values of 12": {"head_dim": 20, "value_dim": 12},
    "half of the head rotated": {"head_dim": 32, "rope_half": 8},
    "rope factor": {"rope_factor": 1.25},
    "learned positions": {"rope": False, "learned_positions": True},
    "mask": {"mask": True},
    "mask, window, softcap, alibi": {"mask": True, "windows": (5,), "softcap": 3.0, "alibi": True},
    "mask without causality": {"mask": True, "causal": False},
    "sinks": {"sinks": True},
    "plain cache": {"plain_cache": True},
    "plain cache, everything": {"plain_cache": True, "windows": (3,), "softcap": 5.0, "sinks": True, "alibi": True, "mask": True},
    "logits of all positions": {"last_token": False},
    "experts": {"experts": 6},
    "experts of gpt-oss": {"experts": 6, "taken": 3, "experts_form": "gpt-oss", "sinks": True},
    "experts of gemma": {"experts": 6, "taken": 1, "experts_form": "gelu"},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_file_gives_the_interpreters_logits(name: str, tmp_path: Path) -> None:
    """A ragged prefill of three rows and six single steps give the logits of the reference."""
    assert compare(write(tmp_path, decoder(Toy(**CONFIGURATIONS[name])))) < BOUND


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("name", ["mistral", "bloom", "gemma2", "mask", "plain cache"])
def test_prefill_in_chunks(name: str, chunk: int, tmp_path: Path) -> None:
    """However the prompts of two rows are cut, the logits stay those of the reference."""
    assert compare(write(tmp_path, decoder(Toy(**CONFIGURATIONS[name]))), (8, 8), steps=3, chunk=chunk) < BOUND


def test_cache_can_be_filled_to_the_last_place(tmp_path: Path) -> None:
    """A row as long as the capacity is served to its end."""
    assert compare(write(tmp_path, decoder(Toy(**GEMMA2))), (20, 20), steps=4) < BOUND


@pytest.mark.parametrize(
    ("feature", "off"),
    [
        ({"alibi": True, "rope": False}, {"rope": False}),
        ({"windows": (3,)}, {}),
        ({"softcap": 0.5}, {}),
        ({"sinks": True}, {}),
        ({"mask": True}, {}),
        ({"rope": True}, {"rope": False}),
        ({"rope_factor": 1.25}, {}),
        ({"offset": 1.0}, {}),
        ({"final_softcap": 1.0}, {}),
        ({"head_dim": 32, "rope_half": 8}, {"head_dim": 32}),
    ],
)
def test_feature_is_in_the_file(feature: dict[str, Any], off: dict[str, Any], tmp_path: Path) -> None:
    """The same model without the feature gives visibly different logits: the comparison above would notice a lost feature."""
    files = write(tmp_path, decoder(Toy(**feature)))
    assert compare(files) < BOUND
    assert compare(files, graph=decoder(Toy(**off))) > VISIBLE


FUSED: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "mistral": ({"windows": (4,)}, {"ScaledDotProductAttention": 2, "RoPE": 4, "RMS": 5, "FullyConnected": 9, "Softmax": 0, "MatMul": 1}),
    "gemma": (GEMMA, {"ScaledDotProductAttention": 2, "RoPE": 4, "RMS": 5, "FullyConnected": 9, "Softmax": 0, "MatMul": 1}),
    "bloom": (BLOOM, {"ScaledDotProductAttention": 2, "RoPE": 0, "MVN": 5, "FullyConnected": 9, "Softmax": 0, "MatMul": 0}),
    "every head its own keys": ({"kv_heads": 4}, {"ScaledDotProductAttention": 2, "RoPE": 4, "RMS": 5, "Softmax": 0}),
    "half of the head rotated": ({"head_dim": 32, "rope_half": 8}, {"ScaledDotProductAttention": 2, "RoPE": 4, "Softmax": 0}),
    "gemma2": (GEMMA2, {"ScaledDotProductAttention": 0, "RoPE": 4, "RMS": 5, "Softmax": 2}),
}


@pytest.mark.parametrize("name", FUSED)
def test_compiled_model_is_fused(name: str, tmp_path: Path) -> None:
    """Attention with its cache and the repeated heads, rotation, norms and matrices are one kernel each, as the manifest says of attention;
    the one MatMul left is the product of positions and frequencies."""
    options, expected = FUSED[name]
    files = write(tmp_path, decoder(Toy(**options)))
    found = kernels(files)
    assert {kind: found[kind] for kind in expected} == expected
    assert found["MemoryInput"] == found["MemoryOutput"] == 4
    assert all(fusion.fused == bool(expected["ScaledDotProductAttention"]) for fusion in files.emitted.fusions)


def test_state_goes_through_beam_idx_into_attention(tmp_path: Path) -> None:
    """ReadValue, Gather by beam_idx, Concat, and from there both to Assign and, the heads repeated by a Broadcast, to attention."""
    model = write(tmp_path, decoder(Toy())).model()
    attention = [node for node in model.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    assert len(attention) == 2
    for node in attention:
        for place in (1, 2):
            chain, value = [], node.input_value(place)
            while value.get_node().get_type_name() != "ReadValue":
                chain.append(value.get_node().get_type_name())
                value = value.get_node().input_value(0)
            assert chain == ["Reshape", "Broadcast", "Unsqueeze", "Concat", "Gather"]
            gather = next(iter(value.get_target_inputs())).get_node()
            assert gather.input_value(1).get_any_name() == "beam_idx"
    assert {sink.get_variable_id() for sink in model.get_sinks()} == {
        f"past_key_values.{layer}.{part}present.{layer}.{part}" for layer in range(2) for part in ("key", "value")
    }


def test_softcap_says_why_it_is_not_fused(tmp_path: Path) -> None:
    """The operator has no place for a softcap; the manifest names it."""
    (first, *_) = write(tmp_path, decoder(Toy(**GEMMA2))).emitted.fusions
    assert (first.form, first.fused) == ("MatMul-Softmax-MatMul", False)
    assert "softcap" in first.reason


def test_masks_of_the_graphs_own_say_why_they_are_not_fused(tmp_path: Path) -> None:
    """A mask that the graph computes is applied in the order of the text; the manifest says so."""
    (first, *_) = write(tmp_path, decoder(Toy(mask=True))).emitted.fusions
    assert not first.fused and "a mask of its own" in first.reason


def test_layers_share_one_mask_and_one_rotation(tmp_path: Path) -> None:
    """Masks and angles are computed once for all layers, not once a layer."""
    few, many = (operators(write(tmp_path, decoder(Toy(layers=layers, windows=(4,))))) for layers in (1, 3))
    for kind in ("Select", "Cos", "Sin", "BitwiseAnd", "Range"):
        assert few[kind] == many[kind] > 0


def test_tied_head_reads_the_embedding_table(tmp_path: Path) -> None:
    """Nothing is stored twice."""
    toy = Toy(tied=True)
    untied = sum(file.bytes for file in write(tmp_path, decoder(Toy())).emitted.files)
    files = write(tmp_path, decoder(toy))
    assert untied - sum(file.bytes for file in files.emitted.files) > 0.9 * toy.vocabulary * toy.hidden * 4
    model = files.model()
    (table,) = [node for node in model.get_ordered_ops() if node.get_friendly_name() == "embedding.embeddings"]
    assert {use.get_node().get_type_name() for use in table.output(0).get_target_inputs()} == {"Gather", "MatMul"}


def test_cache_is_float32_whoever_compiles_the_file(tmp_path: Path) -> None:
    """Without an option the plugin would keep an 8-bit cache; the file says what it needs."""
    files = write(tmp_path, decoder(Toy(head_dim=64)))
    compiled = ov.Core().compile_model(files.directory / "openvino_model.xml", "CPU")
    assert str(compiled.get_property("KV_CACHE_PRECISION")) == str(ov.Type.f32)
    assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0


def test_records_describe_the_file(tmp_path: Path) -> None:
    """Signature, slots and sizes are those of the file; names are the ones OpenVINO GenAI expects."""
    files = write(tmp_path, decoder(Toy(windows=(4, None))))
    (signature,) = files.emitted.signatures
    assert (signature.name, signature.file, signature.returns_logits) == ("extend", "openvino_model.xml", "last")
    assert (signature.padding_side, signature.max_batch_with_past) == ("left", None)
    model = files.model()
    assert [spec.name for spec in signature.inputs] == [tensor.get_any_name() for tensor in model.inputs]
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.inputs] == [
        ("input_ids", "int64", ("batch", "sequence")),
        ("attention_mask", "int64", ("batch", "total")),
        ("position_ids", "int64", ("batch", "sequence")),
        ("beam_idx", "int32", ("batch",)),
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.outputs] == [("logits", "float32", ("batch", 1, 61))]
    cache = files.emitted.cache
    assert [slot.window for slot in cache.slots] == [4, None]
    assert cache.slots[1].inputs == ("past_key_values.1.key", "past_key_values.1.value")
    assert cache.layers == (("self.0",), ("self.1",))
    assert cache.bytes_per_token == 2 * 2 * (16 + 16) * 4
    assert signature.weight_bytes < sum(file.bytes for file in files.emitted.files)
    assert sum(files.emitted.ops.values()) == sum(operators(files).values())


def test_weight_bytes_are_what_a_call_reads(tmp_path: Path) -> None:
    """All matrices and the biases, tied tables once, tables of rows not at all."""
    toy = Toy()
    graph = decoder(toy)
    matrices = sum(weight.nbytes for name, weight in graph.weights.items() if "kernel" in name)
    assert write(tmp_path, graph).emitted.signatures[0].weight_bytes == matrices
    tied = decoder(Toy(tied=True))
    kernels_and_table = sum(w.nbytes for n, w in tied.weights.items() if "kernel" in n) + toy.vocabulary * toy.hidden * 4
    assert write(tmp_path, tied).emitted.signatures[0].weight_bytes == kernels_and_table


def test_position_ids_only_where_they_are_read(tmp_path: Path) -> None:
    """Bloom has no use for positions."""
    files = write(tmp_path, decoder(Toy(**BLOOM)))
    assert [spec.name for spec in files.emitted.signatures[0].inputs] == ["input_ids", "attention_mask", "beam_idx"]


def test_logits_do_not_depend_on_what_stands_on_padding(tmp_path: Path) -> None:
    """The ids on the left padding are not seen by any real token."""
    files = write(tmp_path, decoder(Toy(**BLOOM)))
    request = ov.Core().compile_model(files.model(), "CPU").create_infer_request()
    seen = []
    for filler in (0, 17):
        request.reset_state()
        ids = np.array([[filler, filler, 5, 9], [1, 2, 3, 4]])
        feeds = {"input_ids": ids, "attention_mask": np.array([[0, 0, 1, 1], [1, 1, 1, 1]]), "beam_idx": np.arange(2, dtype=np.int32)}
        seen.append(request.infer(feeds)["logits"].copy())
    assert (seen[0] == seen[1]).all()
