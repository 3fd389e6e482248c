"""Files that vendors' runtimes read beside the model: `genai_config.json` (onnxruntime-genai), `config.json`, `generation_config.json`.

onnxruntime-genai's type "decoder" needs no architecture name: windows, softcap and alibi are in the graph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import Emitted
from kexport.targets.geometry import foreign_to_vendors
from kexport.targets.onnx.files import file_record

GENAI = "onnxruntime-genai"
ONNXRUNTIME = "onnxruntime"
WINDOW_REMARK = "from 1.24.1 on: earlier releases count the keys of a local window differently"
GENAI_INPUTS = {
    "input_ids": names.INPUT_IDS,
    "attention_mask": names.ATTENTION_MASK,
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
}
GENAI_OUTPUTS = {"logits": names.LOGITS, "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}


def write_vendor_files(
    directory: Path,
    emitted: Emitted,
    *,
    stop_token_ids: Sequence[int] = (),
    start_token_id: int | None = None,
    pad_token_id: int | None = None,
    has_tokenizer: bool = False,
) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
    """Write what the vendors' runtimes need, and say which of them take the artifact.

    `stop_token_ids`: all ids that end a text. `start_token_id`: the id put before a prompt, if any. Without `pad_token_id` the first
    stop id stands in. onnxruntime-genai cannot do without a stop id: without any, it stops at the last id of the vocabulary, and the
    verdict says so. `has_tokenizer`: whether tokenizer.json stands beside the model (token ids work without).
    """
    eos = list(dict.fromkeys(int(token) for token in stop_token_ids))
    pad = pad_token_id if pad_token_id is not None else eos[0] if eos else None
    special = {"bos_token_id": start_token_id, "eos_token_id": eos or None, "pad_token_id": pad}
    special = {key: value for key, value in special.items() if value is not None}
    files = [_write(directory / "generation_config.json", special | {"max_length": emitted.cache.capacity})]
    files.append(_write(directory / "config.json", _config(emitted) | special))
    windowed = any(slot.window for slot in emitted.cache.slots)
    engine = VendorRuntime(name=ONNXRUNTIME, accepted=True, reason=WINDOW_REMARK if windowed else "")
    refusal = _genai_refusal(emitted)
    if refusal:
        return tuple(files), (engine, VendorRuntime(name=GENAI, accepted=False, reason=refusal))
    files.append(_write(directory / "genai_config.json", _genai_config(emitted, special)))
    last_id = emitted.geometry.vocabulary_size - 1
    remarks = [] if has_tokenizer else ["token ids only: the artifact has no tokenizer.json"]
    remarks += [] if eos else [f"without a stop id of the model's own it stops at id {last_id}"]
    return tuple(files), (engine, VendorRuntime(name=GENAI, accepted=True, reason="; ".join(remarks)))


def _genai_refusal(emitted: Emitted) -> str:
    """Why onnxruntime-genai cannot run the artifact; empty if it can."""
    if foreign := foreign_to_vendors(emitted):
        return foreign
    if any(signature.name == names.ENCODE for signature in emitted.signatures) or any(slot.kind != "self" for slot in emitted.cache.slots):
        return "it has no model type for this encoder-decoder layout"
    if not emitted.geometry.uniform:
        return "it takes one number of key-value heads and one head size for all layers"
    if emitted.signatures[0].returns_logits == "none" or not emitted.geometry.layers:
        return "the artifact gives no logits, or keeps no cache"
    return ""


def _config(emitted: Emitted) -> dict[str, Any]:
    sizes = emitted.geometry
    return {
        "model_type": "kexport",
        "is_encoder_decoder": any(signature.name == names.ENCODE for signature in emitted.signatures),
        "vocab_size": sizes.vocabulary_size,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.attention_heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.stored_head_dim,
        "max_position_embeddings": emitted.cache.capacity,
    }


def _genai_config(emitted: Emitted, special: dict[str, Any]) -> dict[str, Any]:
    sizes, step = emitted.geometry, emitted.signatures[0]
    inputs = dict(GENAI_INPUTS)
    if any(spec.name == names.POSITION_IDS for spec in step.inputs):
        inputs["position_ids"] = names.POSITION_IDS
    decoder = {
        "session_options": {"log_id": GENAI, "provider_options": []},
        "filename": step.file,
        "head_size": sizes.stored_head_dim,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.attention_heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.key_value_heads,
        "inputs": inputs,
        "outputs": GENAI_OUTPUTS,
    }
    model = {"type": "decoder", "context_length": emitted.cache.capacity, "vocab_size": sizes.vocabulary_size, "decoder": decoder}
    search = {
        "do_sample": False,
        "max_length": emitted.cache.capacity,
        "min_length": 0,
        "num_beams": 1,
        "past_present_share_buffer": True,
    }
    last_id = sizes.vocabulary_size - 1
    return {"model": {"eos_token_id": last_id, "pad_token_id": last_id} | special | model, "search": search}


def _write(path: Path, content: dict[str, Any]) -> File:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file_record(path)
