"""Decoder-only families with caches of keys and values."""

from __future__ import annotations

from typing import Any

from tests.zoo.variant import VOCABULARY, Variant

_ROTARY = {
    "vocabulary_size": VOCABULARY, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48,
}  # fmt: skip
_LEARNED = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48, "max_sequence_length": 64}
_EXPERTS = {"moe_intermediate_dim": 24, "num_experts": 4, "top_k": 2}


def _variants() -> dict[str, Variant]:
    rotary: dict[str, tuple[str, str, dict[str, Any]]] = {
        "llama": ("llama", "Llama", {}),
        "llama, linear scaling, tied": ("llama", "Llama", {"rope_position_scaling_factor": 4.0, "tie_word_embeddings": True}),
        "llama 3": ("llama3", "Llama3", {"rope_max_wavelength": 500000}),
        "llama 3.1": (
            "llama3", "Llama3",
            {"rope_max_wavelength": 500000, "rope_frequency_adjustment_factor": 8.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0,
             "rope_pretraining_sequence_length": 16},
        ),
        "mixtral": ("mixtral", "Mixtral", {"num_experts": 4, "sliding_window": 7}),
        "phi3": ("phi3", "Phi3", {}),
        "qwen": ("qwen", "Qwen", {}),
        "qwen3": ("qwen3", "Qwen3", {"head_dim": 16}),
        "qwen moe": ("qwen_moe", "QwenMoe", {**_EXPERTS, "shared_expert_intermediate_dim": 24}),
        "qwen3 moe": ("qwen3_moe", "Qwen3Moe", {**_EXPERTS, "head_dim": 16, "norm_top_k_prob": True}),
        "gpt-oss": ("gpt_oss", "GptOss", {"num_experts": 4, "top_k": 2, "sliding_window": 7, "rope_scaling_factor": 32.0, "head_dim": 8}),
    }  # fmt: skip
    found = {name: Variant(family, prefix, {**_ROTARY, **config}) for name, (family, prefix, config) in rotary.items()}
    found["gpt2"] = Variant("gpt2", "GPT2", _LEARNED)
    found["opt"] = Variant("opt", "OPT", _LEARNED)
    found["falcon"] = Variant(
        "falcon", "Falcon",
        {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_attention_heads": 4, "hidden_dim": 32, "intermediate_dim": 128},
    )  # fmt: skip
    found["smollm3"] = Variant(
        "smollm3", "SmolLM3",
        {
            "vocabulary_size": VOCABULARY, "hidden_dim": 32, "intermediate_dim": 48, "num_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "attention_bias": False, "attention_dropout": 0.0, "rope_layer_enabled_list": [True, False],
            "layer_types": ["attention", "attention"], "mlp_bias": False, "layer_norm_epsilon": 1e-5, "max_position_embeddings": 128,
            "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
        },
    )  # fmt: skip
    found["gemma3"] = Variant(
        "gemma3", "Gemma3",
        {
            "vocabulary_size": VOCABULARY, "image_size": 16, "num_layers": 7, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32,
            "intermediate_dim": 48, "head_dim": 16, "use_query_key_norm": True, "sliding_window_size": 7, "local_rope_scaling_factor": 1.0,
            "global_rope_scaling_factor": 8.0, "use_sliding_window_attention": True, "vision_encoder": None,
        },
    )  # fmt: skip
    gemma4 = {
        "vocabulary_size": VOCABULARY, "image_size": 16, "num_layers": 6, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32,
        "intermediate_dim": 48, "head_dim": 8, "use_sliding_window_attention": True, "sliding_window_size": 7, "vision_encoder": None,
        "global_head_dim": 16, "final_logit_soft_cap": 30.0,
    }  # fmt: skip
    found["gemma4"] = Variant("gemma4", "Gemma4", gemma4, spread=0.1, seed=3)
    shared = {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY, "global_rope_partial_rotary_factor": 0.25, "use_double_wide_mlp": True,
    }  # fmt: skip
    found["gemma4, shared caches"] = Variant("gemma4", "Gemma4", {**gemma4, **shared}, spread=0.1, seed=3)
    return found


VARIANTS = _variants()
