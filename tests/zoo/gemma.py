"""The later Gemmas: experts, keys and values shared between layers, inputs for each layer."""

from __future__ import annotations

from tests.zoo.variant import VOCABULARY, Variant

_GEMMA4 = {
    "vocabulary_size": VOCABULARY, "image_size": 16, "num_layers": 6, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32,
    "intermediate_dim": 48, "head_dim": 8, "use_sliding_window_attention": True, "sliding_window_size": 7, "vision_encoder": None,
}  # fmt: skip

_GEMMA3N = {
    "text_vocab_size": VOCABULARY, "text_hidden_size": 32, "num_hidden_layers": 6, "pad_token_id": 0, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": [48] * 6, "hidden_activation": "gelu_approximate",
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2, "sliding_window": 7, "rope_theta": 10000.0,
    "max_position_embeddings": 64, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "altup_num_inputs": 3, "laurel_rank": 4,
}  # fmt: skip


class _LayersCounted(Variant):
    """A family that counts its layers under another name."""

    @property
    def layers(self) -> int:
        """How many attention layers the artifact records."""
        return int(self.config["num_hidden_layers"])


VARIANTS = {
    "gemma4, experts": Variant(
        "gemma4", "Gemma4",
        {**_GEMMA4, "enable_moe_block": True, "num_experts": 4, "expert_intermediate_dim": 24, "num_experts_per_token": 2, "global_head_dim": 8},
        spread=0.1, seed=3,
    ),
    "gemma3n": _LayersCounted("gemma3n", "Gemma3n", _GEMMA3N, shows_layers=False, contradicts=True),
    "gemma3n, shared caches": _LayersCounted(
        "gemma3n", "Gemma3n",
        {**_GEMMA3N, "num_kv_shared_layers": 3, "activation_sparsity_pattern": [0.7, 0.9, 0.0, 0.0, 0.0, 0.0], "final_logit_soft_cap": 30.0},
        seed=1, shows_layers=False, contradicts=True,
    ),
}  # fmt: skip
