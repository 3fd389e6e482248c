"""Top-p (nucleus): a draw from the most probable tokens that together hold a given share of the probability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.samplers.base import Draw, Probabilities, SeededSampler, check_count, register_sampler
from kexport.runtime.samplers.candidates import gap_of_order, nucleus
from kexport.runtime.samplers.categorical import draw as draw_categorical
from kexport.runtime.samplers.categorical import gap as gap_of_draw
from kexport.runtime.samplers.categorical import log_odds


@register_sampler("top_p")
class TopPSampler(SeededSampler):
    """The tokens whose running probability stays within `p`, and the one that crosses it; `k`: of the `k` most probable only."""

    def __init__(self, p: float = 0.1, k: int | None = None, seed: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(seed=seed, temperature=temperature)
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not p >= 0:
            raise InvalidInputError("KX532", f"`p` is a probability, not {p!r}")
        if k is not None:
            check_count("k", k)
        self.p, self.k = p, k

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        count = len(probabilities) if self.k is None else self.k
        check_count("k", count, len(probabilities))
        ids = nucleus(probabilities, self.p, count)
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities[ids])
        return int(ids[draw_categorical(logs, self.seed_generator.seed_of(draw.step), draw.place(count))])

    def gap(self, probabilities: Probabilities, draw: Draw) -> float:
        """The draw's, that of the order of the candidates, or that of where `p` cuts the running probability."""
        count = len(probabilities) if self.k is None else self.k
        ids = nucleus(probabilities, self.p, count)
        of_draw = gap_of_draw(np.log(probabilities[ids]), self.seed_generator.seed_of(draw.step), draw.place(count))
        of_cut = math.inf
        if 0 < self.p < 1:
            running = np.cumsum(probabilities[ids], dtype=np.float64)
            running = running[running < 1]
            of_cut = float(np.abs(log_odds(running) - log_odds(self.p)).min(initial=np.inf))
        return self.temperature * min(of_draw, of_cut, gap_of_order(probabilities, len(ids)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.p, "k": self.k}
