"""Samplers of somebody's own: any object with `next(logits, step, rng) -> token ids`. See docs/samplers.md."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.samplers.base import Decoder, Draw, Finished, Ids, Logits, Mask, Probabilities, Sampler, check_logits


@runtime_checkable
class TokenSampler(Protocol):
    """What `compile(sampler=...)` takes of somebody's own. No base class is needed.

    An attribute `seed` (a whole number or None) seeds the generator that `next` is given; without one every `compile()` seeds it at random.
    """

    def next(self, logits: Logits, step: int, rng: np.random.Generator) -> npt.ArrayLike:
        """The next token of each row, whole numbers [rows].

        `logits`: float32 [rows, vocabulary], a copy that may be written to; row b is always prompt b. `step`: counts from 0 in each call of
        `generate()`, at the column behind the shortest prompt. Where a longer prompt still runs, its row's answer is not used. `rng`: the
        same generator at every step and in every call until the next `compile()`.
        """


class CustomSampler(Sampler):
    """A `TokenSampler` in the generation loop. All rows move together, as KerasHub's own samplers see them."""

    lock_step = True

    def __init__(self, sampler: TokenSampler) -> None:
        super().__init__()
        self.sampler = sampler
        self.seed = getattr(sampler, "seed", None)
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)) or self.seed < 0):
            raise InvalidInputError("KX532", f"the seed of {self._name} is a whole number of at least 0 or None, not {self.seed!r}")
        self._rng = np.random.default_rng(self.seed)

    def steps_together(self, rows: int) -> bool:
        """One row alone needs nobody: its text can be streamed."""
        return rows > 1

    def probabilities(self, logits: Logits) -> Probabilities:
        """The logits themselves: what to make of them is the sampler's business."""
        check_logits(logits)
        return np.array(logits, np.float32)

    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        return int(self._next(probabilities[None], draw.step)[0])

    def run(self, decoder: Decoder, ids: Ids, mask: Mask, index: int, finished: Finished) -> Ids:
        start = index
        while index < ids.shape[1] and not finished(ids, mask):
            tokens = self._next(self.probabilities(decoder.step(ids[:, index - 1])), index - start)
            ids[:, index] = np.where(mask[:, index], ids[:, index], tokens)
            index += 1
        return ids

    def get_config(self) -> dict[str, Any]:
        return {"sampler": self._name, "seed": self.seed}

    @property
    def _name(self) -> str:
        return type(self.sampler).__name__

    def _next(self, logits: Logits, step: int) -> npt.NDArray[np.integer[Any]]:
        """The sampler's answer, checked. Raises InvalidInputError (KX535)."""
        rows, vocabulary = logits.shape
        tokens = np.asarray(self.sampler.next(logits, step, self._rng))
        if tokens.shape != (rows,) or not np.issubdtype(tokens.dtype, np.integer):
            found = f"{tokens.dtype} of the shape {tokens.shape}"
            raise InvalidInputError("KX535", f"{self._name}.next() gave {found}; whole numbers of the shape ({rows},) are wanted")
        outside = tokens[(tokens < 0) | (tokens >= vocabulary)]
        if outside.size:
            message = f"{self._name}.next() gave the id {int(outside[0])}; the vocabulary has the ids 0 to {vocabulary - 1}"
            raise InvalidInputError("KX535", message)
        return tokens
