"""Encoder-decoder families."""

from __future__ import annotations

from dataclasses import dataclass

from tests.zoo.variant import VOCABULARY, Variant

_T5 = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48}

_T5GEMMA = {
    "vocabulary_size": VOCABULARY, "hidden_activation": "gelu_approximate", "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 16, "attention_bias": False,
    "dropout_rate": 0.0, "sliding_window": 5,
    **{
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "hidden_dim": 32, "intermediate_dim": 48, "num_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        }.items()
    },
}  # fmt: skip


@dataclass(frozen=True)
class Seq2Seq(Variant):
    """An encoder-decoder: each of its layers attends once in the encoder and twice in the decoder."""

    task: str = "Seq2SeqLM"
    attentions_per_layer: int = 3
    scores: bool = False

    @property
    def layers(self) -> int:
        """How many attention layers the artifact records."""
        return self.attentions_per_layer * int(self.config.get("num_layers") or self.config["decoder_num_layers"])


VARIANTS: dict[str, Variant] = {
    "t5": Seq2Seq("t5", "T5", {**_T5, "activation": "relu", "use_gated_activation": False, "tie_embedding_weights": True}),
    "t5 1.1, gated, head of its own": Seq2Seq(
        "t5", "T5", {**_T5, "activation": "gelu", "use_gated_activation": True, "tie_embedding_weights": False, "key_value_dim": 6},
    ),
    "t5gemma": Seq2Seq(
        "t5gemma", "T5Gemma",
        {**_T5GEMMA, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "tie_word_embeddings": True, "cross_attention_hidden_size": 32},
        spread=0.2, norms=2.0, seed=2,
    ),
    "t5gemma2": Seq2Seq(
        "t5gemma2", "T5Gemma2", {**_T5GEMMA, "use_query_key_norm": True, "tie_word_embeddings": True, "cross_attention_hidden_size": 32},
        spread=0.2, norms=2.0, seed=2, attentions_per_layer=2,
    ),
}  # fmt: skip
