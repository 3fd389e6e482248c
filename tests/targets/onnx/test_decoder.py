"""Whole decoders: the file's logits are the interpreter's, in every configuration and form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.targets.onnx.toys import OnnxRunner, Toy, compare, decoder, op_counts, write

BOUND = 5e-6  # in standard deviations of the logits
VISIBLE = 1e-2  # a feature that matters moves some logit at least this much, in the same unit

BLOOM: dict[str, Any] = {
    "alibi": True,
    "rope": False,
    "norm": "layer_norm",
    "bias": True,
    "activation": "gelu",
    "kv_heads": 4,
    "tied": True,
}
GEMMA2: dict[str, Any] = {
    "softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "final_softcap": 30.0, "kv_heads": 1, "activation": "gelu",
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "separate projections": {"packed": False, "bias": True},
    "bloom": BLOOM,
    "bloom, separate": BLOOM | {"packed": False},
    "gemma2": GEMMA2,
    "every head its own keys": {"kv_heads": 4},
    "head size 8": {"head_dim": 8},
    "head size 24": {"head_dim": 24},
    "head size 64": {"head_dim": 64, "kv_heads": 1},
    "head size 80": {"head_dim": 80, "heads": 2},
    "head size 20": {"head_dim": 20},
    "head size 20, separate": {"head_dim": 20, "packed": False, "bias": True},
    "head size 20, no rope": {"head_dim": 20, "rope": False, "alibi": True},
    "keys of 20, values of 12": {"head_dim": 20, "value_dim": 12},
    "keys of 2, values of 6": {"head_dim": 2, "value_dim": 6, "rope": False, "heads": 6, "kv_heads": 3},
    "half of the head rotated, inside": {"head_dim": 32, "rope_half": 8},
    "half of the head rotated, outside": {"head_dim": 16, "rope_half": 4},
    "rope factor": {"rope_factor": 1.25},
    "learned positions": {"rope": False, "learned_positions": True},
    "mask": {"mask": True},
    "mask, window, softcap, alibi": {"mask": True, "windows": (5,), "softcap": 3.0, "alibi": True},
    "mask without causality": {"mask": True, "causal": False},
    "sinks": {"sinks": True},
    "plain cache": {"plain_cache": True},
    "plain cache, everything": {"plain_cache": True, "windows": (3,), "softcap": 5.0, "sinks": True, "alibi": True, "mask": True},
    "logits of all positions": {"last_token": False},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_file_gives_the_interpreters_logits(name: str, tmp_path: Path) -> None:
    """A ragged prefill of three rows and six single steps give the logits of the reference."""
    files = write(tmp_path, decoder(Toy(**CONFIGURATIONS[name])))
    prompts = (6, 6, 6) if name == "logits of all positions" else (7, 3, 5)
    assert compare(files, prompts).difference < BOUND


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("name", ["mistral", "bloom", "gemma2", "mask", "plain cache"])
def test_prefill_in_chunks(name: str, chunk: int, tmp_path: Path) -> None:
    """However a single row's prompt is cut, the logits stay those of the reference."""
    assert compare(write(tmp_path, decoder(Toy(**CONFIGURATIONS[name]))), (8,), steps=3, chunk=chunk).difference < BOUND


def test_cache_can_be_filled_to_the_last_place(tmp_path: Path) -> None:
    """A row as long as the capacity is served to its end."""
    assert compare(write(tmp_path, decoder(Toy(**GEMMA2))), (20, 20), steps=4).difference < BOUND


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
    assert compare(files).difference < BOUND
    assert compare(files, graph=decoder(Toy(**off))).difference > VISIBLE


def test_packed_rotary_decoder_has_no_loose_ends(tmp_path: Path) -> None:
    """Queries, keys and values go packed into the operator: no Split, Reshape or Transpose is left, and no position_ids."""
    files = write(tmp_path, decoder(Toy(windows=(4,))))
    counts = op_counts(files)
    assert counts["GroupQueryAttention"] == 2
    assert counts["MatMul"] == 2 * 4 + 1
    assert not {"Split", "Reshape", "Transpose", "Concat", "RotaryEmbedding"} & set(counts)
    assert [value.name for value in files.session().get_inputs()][:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert {fusion.reason for fusion in files.emitted.fusions} == {"packed QKV, rotary inside"}
    assert all(fusion.fused and fusion.form == "GroupQueryAttention" for fusion in files.emitted.fusions)


def test_rotary_outside_reads_positions_and_says_why(tmp_path: Path) -> None:
    """Heads of 8 rotate outside the operator, from position_ids, and the manifest names the limit."""
    files = write(tmp_path, decoder(Toy(head_dim=8)))
    assert op_counts(files)["RotaryEmbedding"] == 4
    assert "Reshape" not in op_counts(files)
    assert "position_ids" in {value.name for value in files.session().get_inputs()}
    assert "rotary outside: the operator rotates heads of 16n" in files.emitted.fusions[0].reason


def test_odd_heads_are_padded_in_the_weights(tmp_path: Path) -> None:
    """Heads of 20 become heads of 24 by padded weights alone: no Concat, Pad or Slice runs at decode."""
    files = write(tmp_path, decoder(Toy(head_dim=20)))
    assert not {"Concat", "Pad", "Slice", "Reshape"} & set(op_counts(files))
    slot = files.emitted.cache.slots[0]
    assert slot.head_dim == 20
    shapes = {spec.name: spec.shape for spec in files.emitted.signatures[0].inputs}
    assert shapes["past_key_values.0.key"] == ("batch", 2, "capacity", 24)
    assert files.emitted.cache.bytes_per_token == 2 * 2 * (24 + 24) * 4


def test_alibi_layers_share_one_bias(tmp_path: Path) -> None:
    """The slopes' bias [1, heads, sequence, total] is made once for all layers."""
    counts = op_counts(write(tmp_path, decoder(Toy(**BLOOM))))
    assert counts["Range"] == 1
    assert counts["Expand"] == 1


def test_tied_head_reads_the_embedding_table(tmp_path: Path) -> None:
    """A tied head is a FusedMatMul on the embedding's own tensor; nothing is stored twice."""
    toy = Toy(tied=True)
    files = write(tmp_path, decoder(toy))
    assert op_counts(files)["FusedMatMul"] == 1
    untied = sum(file.bytes for file in write(tmp_path, decoder(Toy())).emitted.files)
    assert untied - sum(file.bytes for file in files.emitted.files) > 0.9 * toy.vocabulary * toy.hidden * 4


def test_mask_layer_stays_fused_as_bias(tmp_path: Path) -> None:
    """A boolean mask becomes the operator's bias instead of plain operators."""
    files = write(tmp_path, decoder(Toy(mask=True)))
    assert op_counts(files)["GroupQueryAttention"] == 2
    assert "Softmax" not in op_counts(files)


def test_layer_without_causality_stays_plain(tmp_path: Path) -> None:
    """The operator's switch for it is too new for the releases we support; the manifest says so."""
    files = write(tmp_path, decoder(Toy(mask=True, causal=False)))
    assert "GroupQueryAttention" not in op_counts(files)
    assert "onnxruntime 1.30" in files.emitted.fusions[0].reason


def test_records_describe_the_file(tmp_path: Path) -> None:
    """Signature, slots and sizes are those of the file; names are the ones every ONNX runtime expects."""
    files = write(tmp_path, decoder(Toy(windows=(4, None))))
    (signature,) = files.emitted.signatures
    assert (signature.name, signature.file, signature.returns_logits, signature.max_batch_with_past) == ("extend", "model.onnx", "last", 1)
    assert [spec.name for spec in signature.inputs] == [value.name for value in files.session().get_inputs()]
    assert [spec.name for spec in signature.outputs] == [value.name for value in files.session().get_outputs()]
    assert signature.outputs[0].shape == ("batch", 1, 61)
    assert signature.inputs[0].dtype == signature.inputs[1].dtype == "int64"
    cache = files.emitted.cache
    assert [slot.window for slot in cache.slots] == [4, None]
    assert cache.slots[1].inputs == ("past_key_values.1.key", "past_key_values.1.value")
    assert cache.slots[1].outputs == ("present.1.key", "present.1.value")
    assert cache.layers == (("self.0",), ("self.1",))
    assert cache.capacity == 24
    geometry = files.emitted.geometry
    assert (geometry.attention_heads, geometry.key_value_heads, geometry.stored_head_dim, geometry.layers) == (4, 2, 16, 2)
    assert (geometry.hidden_size, geometry.vocabulary_size, geometry.uniform) == (32, 61, True)
    assert sum(files.emitted.ops.values()) == sum(op_counts(files).values())


def test_present_is_past_with_the_new_tokens(tmp_path: Path) -> None:
    """After a step the cache holds old positions unchanged and zeros beyond the row's end."""
    files = write(tmp_path, decoder(Toy()))
    runner = OnnxRunner(files, 1)
    runner.extend(np.array([[3, 4, 5]]), np.array([3]))
    before = runner.caches["past_key_values.0.key"].copy()
    runner.extend(np.array([[6]]), np.array([1]))
    after = runner.caches["past_key_values.0.key"]
    assert (before[:, :, :3] == after[:, :, :3]).all()
    assert np.abs(after[:, :, 3]).min() > 0
    assert not after[:, :, 4:].any()
