"""Decoders with rotary positions that KerasHub treats in a way of its own: local windows of Qwen, GPT-NeoX, LongRoPE of Phi-3."""

from __future__ import annotations

from tests.zoo.variant import VOCABULARY, Variant

_ROTARY = {
    "vocabulary_size": VOCABULARY, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48,
}  # fmt: skip
_WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 7}

VARIANTS = {
    "qwen, local windows": Variant("qwen", "Qwen", {**_ROTARY, **_WINDOW, "tie_word_embeddings": False}),
    "qwen moe, local windows": Variant(
        "qwen_moe", "QwenMoe",
        {**_ROTARY, **_WINDOW, "moe_intermediate_dim": 24, "num_experts": 4, "top_k": 2, "shared_expert_intermediate_dim": 24},
    ),
    "gpt-neox": Variant(
        "gpt_neo_x", "GPTNeoX",
        {
            "vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48, "rotary_percentage": 0.5,
            "max_sequence_length": 64,
        },
        contradicts=True,
    ),
    "phi3, long rotary": Variant(
        "phi3", "Phi3",
        {
            **_ROTARY, "max_sequence_length": 64, "pretraining_sequence_length": 20, "rope_scaling_type": "su",
            "rope_scaling_short_factor": [1.0, 1.05, 1.1, 1.2], "rope_scaling_long_factor": [1.2, 2.0, 3.0, 4.0],
        },
        contradicts=True,
    ),
}  # fmt: skip
