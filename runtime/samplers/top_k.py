"""Top-k: a draw from the k most probable tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.runtime.samplers.base import Draw, Probabilities, SeededSampler, check_count, register_sampler
from kexport.runtime.samplers.candidates import UNSORTED_ORDERS, gap_of_order
from kexport.runtime.samplers.categorical import draw as draw_categorical
from kexport.runtime.samplers.categorical import gap as gap_of_draw


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

    def gap(self, probabilities: Probabilities, draw: Draw) -> float:
        """The draw's, or that of the list it is made from: which candidates are in it, in which order."""
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities[UNSORTED_ORDERS[draw.rng.mode](probabilities, self.k)])
        of_draw = gap_of_draw(logs, self.seed_generator.seed_of(draw.step), draw.place(self.k))
        return self.temperature * min(of_draw, gap_of_order(probabilities, self.k))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
