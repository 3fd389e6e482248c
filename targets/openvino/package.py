"""Files that OpenVINO GenAI reads beside the model: `generation_config.json`, `config.json`, the tokenizer and detokenizer models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import File, Fusion, VendorRuntime
from kexport.targets.base import Emitted
from kexport.targets.geometry import foreign_to_vendors
from kexport.targets.openvino.ir_file import file_record
from kexport.targets.openvino.ops.attention import NOT_PAGED
from kexport.targets.openvino.tokenizer import write_tokenizer

OPENVINO = "openvino"
GENAI = "openvino-genai"
GENAI_PAGED = "openvino-genai (paged attention)"
EXACT_REMARK = "exact with INFERENCE_PRECISION_HINT=f32, which a CPU with bfloat16 does not choose by itself"


def write_vendor_files(
    directory: Path,
    emitted: Emitted,
    *,
    stop_token_ids: Sequence[int] = (),
    start_token_id: int | None = None,
    pad_token_id: int | None = None,
    has_tokenizer: bool = False,
    prompt_start: Sequence[int] = (),
) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
    """Write what the vendor's runtimes need, and say which of them take the artifact.

    `stop_token_ids`: all ids that end a text. `start_token_id`: the model's id for the start of a text; `prompt_start`: what the original
    puts in front of every prompt. Without `pad_token_id` the first stop id stands in. GenAI cannot do without a stop id: without any, it stops
    at the last id of the vocabulary, and the verdict says so. `has_tokenizer`: whether tokenizer.json stands beside the model.
    """
    eos = list(dict.fromkeys(int(token) for token in stop_token_ids))
    pad = pad_token_id if pad_token_id is not None else eos[0] if eos else None
    special = {"bos_token_id": start_token_id, "eos_token_id": eos or None, "pad_token_id": pad}
    special = {key: value for key, value in special.items() if value is not None}
    files = [_write(directory / "config.json", _config(emitted) | special)]
    engine = VendorRuntime(name=OPENVINO, accepted=True, reason=EXACT_REMARK)
    refusal = _genai_refusal(emitted)
    if refusal:
        files.append(_write(directory / "generation_config.json", special | _search(emitted)))
        return tuple(files), (engine, _refused(GENAI, refusal), _refused(GENAI_PAGED, refusal))
    last_id = emitted.geometry.vocabulary_size - 1
    files.append(_write(directory / "generation_config.json", {"eos_token_id": last_id} | special | _search(emitted)))
    made, remark = write_tokenizer(directory, prompt_start) if has_tokenizer else ((), "the artifact has no tokenizer.json")
    remarks = [EXACT_REMARK, f"token ids only: {remark}" if remark else ""]
    remarks.append("" if eos else f"without a stop id of the model's own it stops at id {last_id}")
    reason = "; ".join(remark for remark in remarks if remark)
    not_paged = _paged_refusal(emitted.fusions)
    paged = _refused(GENAI_PAGED, not_paged) if not_paged else VendorRuntime(name=GENAI_PAGED, accepted=True, reason=reason)
    return (*files, *made), (engine, VendorRuntime(name=GENAI, accepted=True, reason=reason), paged)


def _genai_refusal(emitted: Emitted) -> str:
    """Why OpenVINO GenAI cannot run the artifact; empty if it can."""
    if foreign := foreign_to_vendors(emitted):
        return foreign
    if any(signature.name == names.ENCODE for signature in emitted.signatures) or any(slot.kind != "self" for slot in emitted.cache.slots):
        return "it has no pipeline for text encoder-decoder models"
    if emitted.signatures[0].returns_logits == "none" or not emitted.geometry.layers:
        return "the artifact gives no logits, or keeps no cache"
    unknown = {spec.name for spec in emitted.signatures[0].inputs} - {
        names.INPUT_IDS, names.ATTENTION_MASK, names.POSITION_IDS, names.BEAM_INDEX,
    }  # fmt: skip
    return f"it cannot fill the input `{min(unknown)}`" if unknown else ""


def _paged_refusal(fusions: Sequence[Fusion]) -> str:
    """Why the paged attention backend cannot run the artifact; empty if it can."""
    for fusion in fusions:
        if not fusion.fused:
            return f"it takes ScaledDotProductAttention over the cache only; layer {fusion.layer} is not: {fusion.reason}"
        if NOT_PAGED in fusion.reason:
            return f"layer {fusion.layer}: {fusion.reason}"
    return ""


def _refused(name: str, reason: str) -> VendorRuntime:
    return VendorRuntime(name=name, accepted=False, reason=reason)


def _search(emitted: Emitted) -> dict[str, Any]:
    return {"max_length": emitted.cache.capacity, "do_sample": False}


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


def _write(path: Path, content: dict[str, Any]) -> File:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file_record(path)
