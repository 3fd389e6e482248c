"""The later Gemmas: experts, keys and values shared between layers, inputs for each layer."""

from __future__ import annotations

from tests.zoo.variant import VOCABULARY, Variant

_GEMMA4 = {
    "vocabulary_size": VOCABULARY, "image_size": 16, "num_layers": 6, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32,
    "intermediate_dim": 48, "head_dim": 8, "use_sliding_window_attention": True, "sliding_window_size": 7, "vision_encoder": None,
}  # fmt: skip

VARIANTS = {
    "gemma4, experts": Variant(
        "gemma4", "Gemma4",
        {**_GEMMA4, "enable_moe_block": True, "num_experts": 4, "expert_intermediate_dim": 24, "num_experts_per_token": 2, "global_head_dim": 8},
    ),
}  # fmt: skip
