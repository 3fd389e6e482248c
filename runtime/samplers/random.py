"""Random: a draw from the whole vocabulary."""

from __future__ import annotations

import numpy as np
from kexport.runtime.samplers.base import Draw, Probabilities, SeededSampler, register_sampler
from kexport.runtime.samplers.categorical import draw as draw_categorical
from kexport.runtime.samplers.categorical import gap as gap_of_draw


@register_sampler("random")
class RandomSampler(SeededSampler):
    """Every token by its probability."""

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities)
        return draw_categorical(logs, self.seed_generator.seed_of(draw.step), draw.place(len(logs)))

    def gap(self, probabilities: Probabilities, draw: Draw) -> float:
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities)
        return self.temperature * gap_of_draw(logs, self.seed_generator.seed_of(draw.step), draw.place(len(logs)))
