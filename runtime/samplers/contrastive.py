"""Contrastive search as KerasHub does it: of the k most probable tokens the one that is probable and unlike what came before.

    score = (1 - alpha) * probability - alpha * (largest cosine of its hidden state and those of all tokens before)

after Su et al., "A Contrastive Framework for Neural Text Generation" (2022). Each candidate's hidden state takes a step of the model, so a
token costs one step of k rows a row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.samplers.base import (
    Decoder,
    Draw,
    Finished,
    HiddenStates,
    Ids,
    Mask,
    Probabilities,
    Sampler,
    check_count,
    register_sampler,
)
from kexport.runtime.samplers.candidates import UNSORTED_ORDERS


@register_sampler("contrastive")
class ContrastiveSampler(Sampler):
    """`k`: candidates a step; `alpha`: the weight of being unlike, 0 to 1. Nothing is drawn. Where the prompt's token stays, its hidden state counts."""

    lock_step = True
    needs_hidden_states = True

    def __init__(self, k: int = 5, alpha: float = 0.6, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        check_count("k", k)
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise InvalidInputError("KX532", f"`alpha` is a number, not {alpha!r}")
        self.k, self.alpha = k, alpha

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        """The most probable token: what contrastive search chooses where nothing came before."""
        return int(np.argmax(probabilities))

    def run(self, decoder: Decoder, ids: Ids, mask: Mask, index: int, finished: Finished) -> Ids:
        rows = np.arange(len(ids))
        logits, hidden = decoder.step_with_hidden_states(ids[:, index - 1])
        of_prompt = decoder.prompt_hidden_states()
        memory = _Memory(of_prompt, ids.shape[1])
        if of_prompt.shape[1] < index:
            memory.append(hidden)
        while index < ids.shape[1] and not finished(ids, mask):
            probabilities = self.probabilities(logits)
            check_count("k", self.k, probabilities.shape[-1])
            order = UNSORTED_ORDERS[decoder.rng.mode]
            chosen = np.stack([order(row, self.k) for row in probabilities])
            tokens = np.where(mask[:, index, None], ids[:, index, None], chosen).astype(ids.dtype)
            decoder.reorder(np.repeat(rows, self.k))
            logits, hidden = decoder.step_with_hidden_states(tokens.reshape(-1))
            best = self._scores(np.take_along_axis(probabilities, chosen, axis=1), memory, hidden.reshape(len(ids), self.k, -1)).argmax(axis=1)
            winners = rows * self.k + best
            decoder.reorder(winners)
            logits = logits[winners]
            memory.append(hidden[winners])
            ids[:, index] = tokens[rows, best]
            index += 1
        return ids

    def _scores(self, probabilities: Probabilities, memory: _Memory, hidden: HiddenStates) -> Any:
        """[rows, k] of candidates with these probabilities [rows, k] and hidden states [rows, k, hidden size]."""
        alpha = np.float32(self.alpha)
        return np.float32(1 - self.alpha) * probabilities - alpha * memory.similarities(hidden).max(axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k, "alpha": self.alpha}


class _Memory:
    """The hidden states of every row's tokens so far, and their lengths."""

    def __init__(self, start: HiddenStates, capacity: int) -> None:
        rows, self._count, width = start.shape
        self._states = np.zeros((rows, capacity + 1, width), np.float32)
        self._states[:, : self._count] = start

    def append(self, hidden: HiddenStates) -> None:
        """One token more a row, [rows, hidden size]."""
        self._states[:, self._count] = hidden
        self._count += 1

    def similarities(self, hidden: HiddenStates) -> Any:
        """Cosines of [rows, k, hidden size] and all tokens so far: [rows, tokens, k]."""
        held = self._states[:, : self._count]
        lengths = np.sqrt((held * held).sum(axis=-1))[..., None] * np.sqrt((hidden * hidden).sum(axis=-1))[:, None, :]
        return held @ hidden.swapaxes(1, 2) / lengths
