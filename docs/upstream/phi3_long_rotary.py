"""Phi-3 with LongRoPE: which frequencies rotate a prompt's keys depends on how long its padded buffer is, so that generate() attends to short and long
frequencies at once.

    python docs/upstream/phi3_long_rotary.py
"""

from __future__ import annotations

from small import ROTARY, compare, rows, task

LONG = {
    "max_sequence_length": 64, "pretraining_sequence_length": 20, "rope_scaling_type": "su", "rope_scaling_short_factor": [1.0, 1.05, 1.1, 1.2],
    "rope_scaling_long_factor": [1.2, 2.0, 3.0, 4.0],
}  # fmt: skip

compare(task("Phi3", ROTARY | LONG), rows([5, 9, 11, 3], length=40))
