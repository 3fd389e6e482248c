"""Gemma 3n: the functional head multiplies by the embedding table as it was when the model was built, so that the uncached forward ignores weights
that are loaded later.

    python docs/upstream/gemma3n_plain_forward.py
"""

from __future__ import annotations

import numpy as np
from small import task

LAYERS = 2
model = task("Gemma3n", {
    "text_vocab_size": 64, "text_hidden_size": 32, "num_hidden_layers": LAYERS, "pad_token_id": 0, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": [48] * LAYERS, "hidden_activation": "gelu_approximate", "layer_types": ["full_attention"] * LAYERS,
    "sliding_window": 7, "rope_theta": 10000.0, "max_position_embeddings": 64, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8,
    "altup_num_inputs": 2, "laurel_rank": 4,
})  # fmt: skip
ids = np.array([[5, 9, 11, 3]], "int32")
inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids, bool)}
hidden = model.backbone(inputs)
difference = float(np.abs(np.asarray(model.backbone.language_model.token_embedding(hidden, reverse=True)) - np.asarray(model(inputs))).max())
print("logits of the head over the same hidden states differ by", round(difference, 2))
print("WRONG: model(x) does not use its weights" if difference > 1e-3 else "right: they are equal")
