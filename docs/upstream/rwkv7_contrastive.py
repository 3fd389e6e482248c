"""RWKV-7: contrastive search takes the hidden states of the prompt's table as if they stood in the buffer of new tokens, which is another table: it fails
where the two are not equally long.

    python docs/upstream/rwkv7_contrastive.py
"""

from __future__ import annotations

import numpy as np
from small import task

model = task("RWKV7", {
    "vocabulary_size": 64, "hidden_size": 32, "head_size": 8, "num_layers": 2, "intermediate_dim": 48, "gate_lora": 8, "mv_lora": 8, "aaa_lora": 8,
    "decay_lora": 8,
})  # fmt: skip
model.compile(sampler="contrastive")
table, buffer = np.array([[5, 9, 11, 3, 7]], "int32"), np.zeros((1, 8), "int32")
buffer[0, 0] = 6
inputs = {"token_ids": table, "input_padding_mask": table > 0, "predict_token_ids": buffer, "padding_mask": buffer > 0}
try:
    model.generate(inputs, stop_token_ids=None)
    print("right: it runs")
except Exception as error:
    print(f"WRONG: contrastive search raises {type(error).__name__}")
