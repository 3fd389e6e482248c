"""Families whose layers keep states only: no keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.zoo.variant import VOCABULARY, Variant


@dataclass(frozen=True)
class RecurrentVariant(Variant):
    """A variant whose vectors carry meaning, too (decays, mixtures of neighbours): they get numbers as the matrices do."""

    vector_spread: float = 0.3

    def build(self) -> Any:
        task = super().build()
        generator = np.random.default_rng(self.seed + 1)
        for variable in task.variables:
            if len(variable.shape) == 1 and str(variable.dtype).startswith("float"):
                variable.assign(variable.numpy() + generator.normal(0, self.vector_spread, variable.shape).astype(np.float32))
        return task


VARIANTS = {
    "rwkv7": RecurrentVariant(
        "rwkv7", "RWKV7",
        {
            "vocabulary_size": VOCABULARY, "hidden_size": 32, "head_size": 8, "num_layers": 3, "intermediate_dim": 48, "gate_lora": 12, "mv_lora": 6,
            "aaa_lora": 10, "decay_lora": 8,
        },
    ),
}  # fmt: skip
