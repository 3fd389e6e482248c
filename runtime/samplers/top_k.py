"""Top-k: a draw from the k most probable tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.runtime.samplers.base import Draw, Probabilities, SeededSampler, check_count, register_sampler
from kexport.runtime.samplers.candidates import UNSORTED_ORDERS
from kexport.runtime.samplers.categorical import draw as draw_categorical


@register_sampler("top_k")
class TopKSampler(SeededSampler):
    """The `k` most probable tokens by their probability."""

    def __init__(self, k: int = 5, seed: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(seed=seed, temperature=temperature)
        check_count("k", k)
        self.k = k

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        check_count("k", self.k, len(probabilities))
        ids = UNSORTED_ORDERS[draw.rng.mode](probabilities, self.k)
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities[ids])
        return int(ids[draw_categorical(logs, self.seed_generator.seed_of(draw.step), draw.place(self.k))])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
