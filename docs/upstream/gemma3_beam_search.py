"""Gemma 3: beam search fails even for one row: the prompt's mask is cut with the number of beams as its batch.

    python docs/upstream/gemma3_beam_search.py
"""

from __future__ import annotations

from small import rows, task

model = task("Gemma3", {
    "vocabulary_size": 64, "image_size": 16, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48,
    "head_dim": 8, "vision_encoder": None,
})  # fmt: skip
model.compile(sampler="beam")
try:
    model.make_generate_function()(rows([5, 9, 11, 3]), stop_token_ids=None)
    print("right: it runs")
except Exception as error:
    print(f"WRONG: beam search raises {type(error).__name__}: {str(error).splitlines()[0][:90]}")
