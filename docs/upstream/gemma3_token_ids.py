"""Gemma 3 without images: generate() on token ids fails when it puts its batches together, because one of its outputs is None.

    python docs/upstream/gemma3_token_ids.py
"""

from __future__ import annotations

import numpy as np
from small import GEMMA3_OF_TEXTS, rows, task

model = task("Gemma3", GEMMA3_OF_TEXTS)
model.compile(sampler="greedy")
try:
    print(np.asarray(model.generate(rows([5, 9, 11, 3]), stop_token_ids=None)["token_ids"])[0].tolist())
    print("right: it runs")
except ValueError as error:
    print("WRONG: generate() raises ValueError:", str(error).splitlines()[0][:90])
