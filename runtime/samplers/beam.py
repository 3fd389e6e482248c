"""Beam search as KerasHub does it: no length penalty, and beams go on after a stop id."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.samplers.base import Decoder, Draw, Finished, Ids, Mask, Probabilities, Sampler, check_count, register_sampler
from kexport.runtime.samplers.candidates import UNSORTED_ORDERS

_UNLIKELY = -1e9  # keeps all beams but the first out of the first step: they are copies of it


@register_sampler("beam")
class BeamSampler(Sampler):
    """The `num_beams` sequences with the largest sum of log-probabilities are kept at every step; the best one is returned.

    A step adds the log-probability of the token it chose even where the prompt's token stays in its place.
    """

    lock_step = True

    def __init__(self, num_beams: int = 5, return_all_beams: bool = False, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        check_count("num_beams", num_beams)
        if return_all_beams:
            message = "`return_all_beams` is not supported: KerasHub's own `generate()` cannot return them"
            raise UnsupportedError("KX534", message, hint="leave it out: the best beam is returned")
        self.num_beams = num_beams

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        """The first of one beam's candidates: what a beam search over one beam does."""
        return int(np.argmax(probabilities))

    def run(self, decoder: Decoder, ids: Ids, mask: Mask, index: int, finished: Finished) -> Ids:
        batch_size, length = ids.shape
        first_beams = np.arange(batch_size)[:, None] * self.num_beams
        decoder.reorder(np.repeat(np.arange(batch_size), self.num_beams))
        ids, mask = np.repeat(ids, self.num_beams, axis=0), np.repeat(mask, self.num_beams, axis=0)
        scores = np.tile(np.array([0.0] + [_UNLIKELY] * (self.num_beams - 1), np.float32), (batch_size, 1))
        while index < length and not finished(ids, mask):
            beams, tokens, scores = self._best(decoder.step(ids[:, index - 1]), scores, decoder.rng.mode)
            rows = (first_beams + beams).reshape(-1)
            decoder.reorder(rows)
            ids = ids[rows]
            ids[:, index] = np.where(mask[:, index], ids[:, index], tokens.reshape(-1))
            index += 1
        winners: Ids = ids[first_beams[:, 0] + scores.argmax(axis=1)]
        return winners

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_beams": self.num_beams, "return_all_beams": False}

    def _best(self, logits: Any, scores: Any, mode: str) -> tuple[Any, Any, Any]:
        """Which beam each new beam goes on from, its token, and its score, all [batch, beams]."""
        vocabulary = logits.shape[-1]
        with np.errstate(divide="ignore"):
            totals = np.log(self.probabilities(logits)).reshape(*scores.shape, vocabulary) + scores[..., None]
        flat = totals.reshape(len(scores), -1)
        chosen = np.stack([UNSORTED_ORDERS[mode](row, self.num_beams) for row in flat])
        return chosen // vocabulary, chosen % vocabulary, np.take_along_axis(flat, chosen, axis=1)
