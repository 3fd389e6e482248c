"""Phi-3: generate() has no `strip_prompt`, which every other CausalLM takes.

    python docs/upstream/phi3_strip_prompt.py
"""

from __future__ import annotations

import numpy as np
from small import ROTARY, rows, task

model = task("Phi3", ROTARY)
model.compile(sampler="greedy")
try:
    print(np.shape(model.generate(rows([5, 9, 11, 3]), stop_token_ids=None, strip_prompt=True)["token_ids"]))
    print("right: it runs")
except TypeError as error:
    print("WRONG:", error)
