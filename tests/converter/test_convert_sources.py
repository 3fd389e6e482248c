"""Sources of every storage form become proven artifacts: shards and other dtypes, fetched from a hub; Mistral's float16 through its converter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.converter.preset_folder import edit, write_json
from tests.converter.test_hub_sources import hub, run

pytestmark = pytest.mark.slow
__all__ = ["hub"]  # a fixture
SHARD_GIGABYTES = 5e-5
CONVERT = """
import json, sys
from kexport import runtime
from kexport.converter.conversion import convert
found = {}
for handle in sys.argv[2:]:
    made = convert(handle, output=f"{sys.argv[1]}/{handle.split('/')[-1]}", max_length=64)
    with runtime.load(made.directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        ids, mask = [[5, 6, 7] + [0] * 21], [[True] * 3 + [False] * 21]
        tokens = model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None)["token_ids"][0].tolist()
    found[handle.split("/")[-1]] = {"verdict": made.manifest.parity.verdict, "tokens": tokens, "tokenizer": made.manifest.tokenizer is not None}
print(json.dumps(found).replace(" ", ""))
"""
HIDDEN, HEAD, INNER, VOCABULARY = 16, 8, 32, 40


def set_dtype(preset: Path, dtype: str) -> None:
    """What the configs say of the dtype; the weights stay."""

    def change(config: dict[str, Any]) -> None:
        config["dtype"]["config"]["name"] = dtype

    edit(preset / "config.json", lambda document: change(document["config"]))
    edit(preset / "task.json", lambda document: change(document["config"]["backbone"]["config"]))


def test_shards_and_dtypes_on_a_hub_convert(hub: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Sharded, in bfloat16, and with a config that names another dtype than the file has: proven, and the tokens of the plain preset."""
    from kexport.converter.sources import open_source

    from tests.converter import tiny_models

    root, environment = hub
    bloom = tiny_models.bloom()
    tiny_models.save_preset(bloom, tmp_path / "plain")
    folder = root / "org"
    folder.mkdir()
    tiny_models.save_preset(bloom, folder / "sharded", max_shard_size=SHARD_GIGABYTES)
    assert len(list((folder / "sharded").glob("model_*.weights.h5"))) > 1
    tiny_models.save_preset(open_source(tmp_path / "plain").load(dtype="bfloat16"), folder / "bfloat16")
    shutil.copytree(folder / "bfloat16", folder / "float32-over-bfloat16")
    set_dtype(folder / "float32-over-bfloat16", "float32")
    shutil.copytree(tmp_path / "plain", folder / "bfloat16-over-float32")
    set_dtype(folder / "bfloat16-over-float32", "bfloat16")
    (tmp_path / "out").mkdir()
    names = ["sharded", "bfloat16", "float32-over-bfloat16", "bfloat16-over-float32"]
    (line,) = run(CONVERT, environment, str(tmp_path / "out"), str(tmp_path / "plain"), *(f"hf://org/{name}" for name in names))
    found = json.loads(line)
    assert all(one["verdict"] == "proven" and one["tokenizer"] for one in found.values())
    assert found["sharded"]["tokens"] == found["bfloat16-over-float32"]["tokens"] == found["plain"]["tokens"]
    assert found["bfloat16"]["tokens"] == found["float32-over-bfloat16"]["tokens"]


def write_mistral(directory: Path, layers: int = 2) -> dict[str, np.ndarray]:
    """A float32 Mistral in the transformers layout, with values that float16 does not have."""
    from safetensors.numpy import save_file

    config = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": VOCABULARY, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HEAD, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "sliding_window": None,
    }  # fmt: skip
    shapes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{prefix}.self_attn.{name}": size for name, size in {
            "q_proj": (2 * HEAD, HIDDEN), "k_proj": (HEAD, HIDDEN), "v_proj": (HEAD, HIDDEN), "o_proj": (HIDDEN, 2 * HEAD)}.items()}  # fmt: skip
        shapes |= {f"{prefix}.mlp.{name}": size for name, size in {
            "gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}.items()}  # fmt: skip
    random = np.random.default_rng(5)
    tensors = {f"{name}.weight": random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    write_json(directory / "config.json", config)
    save_file(tensors, directory / "model.safetensors")
    return tensors


def test_a_mistral_checkpoint_converts_with_a_word_on_its_rounding(tmp_path: Path) -> None:
    """The note counts what KerasHub's converter changes; the artifact is proven against what KerasHub then has."""
    from kexport.converter.conversion import convert
    from kexport.converter.options import make_options
    from kexport.converter.plan import make_plan
    from kexport.converter.sources import open_source

    tensors = write_mistral(tmp_path)
    source = open_source(tmp_path)
    changed = sum(int((values.astype(np.float16).astype(np.float32) != values).sum()) for values in tensors.values())
    (note,) = [note for note in make_plan(source, make_options()).notes if "float16" in note and "rounds" in note]
    assert f"{changed:,} change and 0 become infinite" in note
    embeddings = np.asarray(source.load().backbone.token_embedding.embeddings)
    np.testing.assert_array_equal(embeddings, tensors["model.embed_tokens.weight"].astype(np.float16).astype(np.float32))
    assert convert(tmp_path, output=tmp_path / "OUT", max_length=64).manifest.parity.verdict == "proven"
