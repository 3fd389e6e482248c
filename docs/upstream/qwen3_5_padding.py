"""Qwen3.5: generate() prefills the whole padded buffer, and each padded token decays the recurrent state; the last prompt token goes into it twice.

    python docs/upstream/qwen3_5_padding.py
"""

from __future__ import annotations

from small import ROTARY, compare, rows, task

HYBRID = {
    "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.5,
}  # fmt: skip

compare(task("Qwen3_5", ROTARY | HYBRID), rows([5, 9, 11, 3]))
