"""Greedy: the most probable token; of equals the one with the smallest id."""

from __future__ import annotations

import numpy as np
from kexport.runtime.samplers.base import Draw, Probabilities, Sampler, register_sampler


@register_sampler("greedy")
class GreedySampler(Sampler):
    """`argmax` over probabilities, not logits: two logits that differ by less than float32's step may tie there, as in KerasHub."""

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        return int(np.argmax(probabilities))
