"""Qwen with local windows: `cache_update_index if cache_update_index else 0` asks a traced tensor for its truth, so that generate() fails unless run_eagerly.

    python docs/upstream/qwen_sliding_window.py
"""

from __future__ import annotations

import numpy as np
from small import ROTARY, rows, task

model = task("Qwen", {**ROTARY, "use_sliding_window_attention": True, "sliding_window_size": 7})
model.compile(sampler="greedy")
try:
    print(np.asarray(model.generate(rows([5, 9, 11, 3]), stop_token_ids=None)["token_ids"])[0].tolist())
    print("right: it runs")
except Exception as error:
    print(f"WRONG: generate() raises {type(error).__name__}")
