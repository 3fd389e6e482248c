"""Encoder-decoder families."""

from __future__ import annotations

from dataclasses import dataclass

from tests.zoo.variant import VOCABULARY, Variant

_T5 = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48}


@dataclass(frozen=True)
class Seq2Seq(Variant):
    """An encoder-decoder: each of its layers attends once in the encoder and twice in the decoder."""

    task: str = "Seq2SeqLM"
    attentions_per_layer: int = 3

    @property
    def layers(self) -> int:
        """How many attention layers the artifact records."""
        return self.attentions_per_layer * int(self.config["num_layers"])


VARIANTS: dict[str, Variant] = {
    "t5": Seq2Seq("t5", "T5", {**_T5, "activation": "relu", "use_gated_activation": False, "tie_embedding_weights": True}),
    "t5 1.1, gated, head of its own": Seq2Seq(
        "t5", "T5", {**_T5, "activation": "gelu", "use_gated_activation": True, "tie_embedding_weights": False, "key_value_dim": 6},
    ),
}
