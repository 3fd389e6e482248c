"""Backbones alone, encoders and encoder-decoders, and some that are refused: as Keras initialises them but with numbers that do not repeat themselves. No Keras at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.zoo import seq2seq
from tests.zoo.variant import VOCABULARY

_LAYERS = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48}
_PLACED = {**_LAYERS, "max_sequence_length": 64}
_TOWER = {**_PLACED, "embedding_dim": 32}


@dataclass(frozen=True)
class Encoder:
    """A configuration of the stock class `cls`. `spread`: the standard deviation of matrices."""

    cls: str
    config: dict[str, Any]
    spread: float = 0.3

    def build(self) -> Any:
        """The stock backbone with this variant's numbers in its matrices, float32."""
        import keras
        import keras_hub

        keras.utils.set_random_seed(0)
        backbone = getattr(keras_hub.models, self.cls)(**self.config, dtype="float32")
        generator = np.random.default_rng(0)
        for variable in backbone.variables:
            if len(variable.shape) > 1 and str(variable.dtype).startswith("float"):
                variable.assign(generator.normal(0, self.spread, variable.shape).astype(np.float32))
        return backbone


def _electra() -> dict[str, Any]:
    config = {name: value for name, value in _PLACED.items() if name != "vocabulary_size"}
    return {**config, "vocab_size": VOCABULARY, "embedding_dim": 16}


BACKBONES: dict[str, Encoder] = {
    "deberta_v3": Encoder("DebertaV3Backbone", {**_PLACED, "bucket_size": 8}),
    "electra": Encoder("ElectraBackbone", _electra()),
    "esm": Encoder("ESMBackbone", {**_LAYERS, "position_embedding_type": "rotary"}),
    "roformer_v2": Encoder("RoformerV2Backbone", {**_LAYERS, "head_size": 8}),
    "xlm_roberta": Encoder("XLMRobertaBackbone", _PLACED),
    "f_net": Encoder("FNetBackbone", {name: value for name, value in _PLACED.items() if name != "num_heads"}),
    "xlnet": Encoder("XLNetBackbone", _LAYERS),
    "clip, text": Encoder("CLIPTextEncoder", {**_TOWER, "intermediate_output_index": -2}),
    "metaclip_2, text": Encoder("MetaCLIP2TextEncoder", _TOWER),
    "edrec": Encoder(
        "EdRecBackbone",
        {"vocab_size": VOCABULARY, "num_layers_enc": 2, "num_layers_dec": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48, "dropout": 0.0},
        spread=0.1,  # nothing is normed at its end: larger numbers make each softmax pick one key
    ),
    **{name: Encoder(f"{variant.prefix}Backbone", variant.config) for name, variant in seq2seq.VARIANTS.items()},
}  # fmt: skip

REFUSED: dict[str, Encoder] = {
    "siglip, text": Encoder("SigLIPTextEncoder", _TOWER),
    "whisper": Encoder("WhisperBackbone", {**_LAYERS, "num_mels": 8, "max_encoder_sequence_length": 40, "max_decoder_sequence_length": 24}),
}
