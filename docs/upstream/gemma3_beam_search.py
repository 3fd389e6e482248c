"""Gemma 3: beam search fails even for one row: the prompt's mask is cut with the number of beams as its batch.

    python docs/upstream/gemma3_beam_search.py
"""

from __future__ import annotations

from small import GEMMA3_OF_TEXTS, rows, task

model = task("Gemma3", GEMMA3_OF_TEXTS)
model.compile(sampler="beam")
try:
    model.make_generate_function()(rows([5, 9, 11, 3]), stop_token_ids=None)
    print("right: it runs")
except Exception as error:
    print(f"WRONG: beam search raises {type(error).__name__}: {str(error).splitlines()[0][:90]}")
