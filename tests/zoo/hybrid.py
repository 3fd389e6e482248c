"""Families with recurrent layers between attention layers."""

from __future__ import annotations

from tests.zoo.variant import VOCABULARY, Variant

_HYBRID = {
    "vocabulary_size": VOCABULARY, "num_layers": 4, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "head_dim": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"], "partial_rotary_factor": 0.5, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4,
}  # fmt: skip

_EXPERTS = {"moe_intermediate_dim": 24, "shared_expert_intermediate_size": 24, "num_experts": 4, "top_k": 2}

VARIANTS = {
    "qwen3.5": Variant("qwen3_5", "Qwen3_5", {**_HYBRID, "intermediate_dim": 48}, spread=0.3, seed=2, contradicts=True),
    "qwen3.5 moe": Variant("qwen3_5_moe", "Qwen3_5Moe", {**_HYBRID, **_EXPERTS}, spread=0.2, seed=1, contradicts=True),
}
