"""What a sampler is: logits in, tokens out. Names, arguments and defaults are KerasHub's. And the registry of samplers.

Most samplers look at one row at a time: they implement `next_token`, and the generation loop may run rows at their own pace, because a
row's draw depends on its step and its place in the batch only. A sampler that compares rows (beams) or needs several model calls per token
(contrastive search) sets `lock_step` and overrides `run`, which sees the whole batch and the caches through a `Decoder`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.categorical import Place
from kexport.runtime.samplers.seeds import SeedGenerator

Ids = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]
HiddenStates = npt.NDArray[np.float32]
_SEEDS = 2**63  # Keras keeps a seed in 64 bits, with a sign


@dataclass(frozen=True)
class Draw:
    """Which of the original's draws this is: the step of its loop, the row and the number of rows, and its random conditions."""

    step: int
    row: int
    batch_size: int
    rng: Rng

    def place(self, candidates: int) -> Place:
        """Where this draw's random numbers lie when every row has `candidates`."""
        return Place(self.row, self.batch_size, candidates, self.rng)


class Decoder(Protocol):
    """The model as a lock-step sampler sees it: the caches of all rows, moved on together."""

    rng: Rng

    def step(self, tokens: Ids) -> Logits:
        """Append one token to each row, [rows]; the logits of the next one, [rows, vocabulary]."""

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Row b goes on from what row `rows[b]` holds; there may be more or fewer rows afterwards."""

    def step_with_hidden_states(self, tokens: Ids) -> tuple[Logits, HiddenStates]:
        """`step`, and the appended tokens' hidden states, [rows, hidden size]. Raises UnsupportedError (KX559) where there are none."""

    def prompt_hidden_states(self) -> HiddenStates:
        """The hidden states that the prefill gave for the tokens in front of the first column to fill, [rows, tokens, hidden size]. The last of them, which
        the first step feeds, is among them where the whole buffer was prefilled, and where prefill and step would give different ones. Raises as
        `step_with_hidden_states` does."""


class Finished(Protocol):
    """The stop test of the loop."""

    def __call__(self, ids: Ids, mask: Mask) -> bool:
        """Whether every row of `ids` holds a stop id where `mask` (the prompt) is False."""


class Sampler(ABC):
    """The base of all samplers.

    `temperature` divides the logits before the softmax. `lock_step`: rows cannot run at their own pace. `needs_hidden_states`: the
    artifact must give hidden states beside logits.
    """

    lock_step: ClassVar[bool] = False
    needs_hidden_states: ClassVar[bool] = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        _check_temperature(temperature)
        self.temperature = temperature
        self.seed_generator: SeedGenerator | None = None

    def steps_together(self, rows: int) -> bool:
        """Whether a batch of so many rows must move in lock step."""
        return self.lock_step

    @abstractmethod
    def next_token(self, probabilities: Probabilities, draw: Draw) -> int:
        """The next token of one row, from its probabilities [vocabulary]."""

    def gap(self, probabilities: Probabilities, draw: Draw) -> float:
        """How far two logits must come together or part for `next_token` to be another one; for a test of equality with the original.

        Raises NotImplementedError for a sampler whose choice does not hang on one row's probabilities alone.
        """
        raise NotImplementedError

    def finish(self, steps: int) -> None:
        """The loop made `steps` steps: later draws go on from there."""
        if self.seed_generator is not None:
            self.seed_generator.advance(steps)

    def probabilities(self, logits: Logits) -> Probabilities:
        """softmax(float32(logits) / temperature) over the last axis, as KerasHub computes it: always float32, division first.

        Raises InvalidInputError (KX533) where the model gave something that is not a number.
        """
        scaled = np.asarray(logits, np.float32) / np.float32(self.temperature)
        check_logits(scaled)
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        result: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
        return result

    def run(self, decoder: Decoder, ids: Ids, mask: Mask, index: int, finished: Finished) -> Ids:
        """KerasHub's lock-step loop: fill `ids` [batch, length] from column `index` on and return it; prompt tokens stay.

        The decoder holds columns 0 to `index` - 2 of every row: the first step feeds column `index` - 1.
        """
        for _ in self.columns(decoder, ids, mask, index, finished):
            pass
        return ids

    def columns(self, decoder: Decoder, ids: Ids, mask: Mask, index: int, finished: Finished) -> Iterator[int]:
        """`run` of a sampler that looks at one row at a time, column after column; yields how many columns are filled."""
        start = index
        while index < ids.shape[1] and not finished(ids, mask):
            probabilities = self.probabilities(decoder.step(ids[:, index - 1]))
            draws = [Draw(index - start, row, len(ids), decoder.rng) for row in range(len(ids))]
            tokens = [self.next_token(probabilities[draw.row], draw) for draw in draws]
            ids[:, index] = np.where(mask[:, index], ids[:, index], tokens)
            index += 1
            yield index
        self.finish(index - start)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this sampler again."""
        return {"temperature": self.temperature}


class SeededSampler(Sampler):
    """A sampler that draws. `seed` None takes a random one."""

    seed_generator: SeedGenerator

    def __init__(self, seed: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise InvalidInputError("KX532", f"a seed is a whole number or None, not {seed!r}")
        if seed is not None and not -_SEEDS <= seed < _SEEDS:
            raise InvalidInputError("KX532", f"a seed has at most 64 bits, as in Keras; {seed} has more")
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


SamplerClass = TypeVar("SamplerClass", bound=type[Sampler])
_SAMPLERS: dict[str, type[Sampler]] = {}


def register_sampler(name: str) -> Callable[[SamplerClass], SamplerClass]:
    """Class decorator: `name` is KerasHub's name for `compile(sampler=name)`; the class has KerasHub's class name."""

    def register(sampler_class: SamplerClass) -> SamplerClass:
        _SAMPLERS[name] = sampler_class
        return sampler_class

    return register


def registered_samplers() -> dict[str, type[Sampler]]:
    """The samplers by name."""
    return dict(_SAMPLERS)


def check_logits(logits: Logits) -> None:
    """Raise InvalidInputError (KX533) where a row of logits [rows, vocabulary] holds NaN or +infinity, or nothing but -infinity."""
    if not np.isfinite(logits.max(axis=-1)).all():  # NaN and infinity both come out of a maximum
        raise InvalidInputError("KX533", "the model's logits are not numbers", hint="its weights may hold NaN; check the original model")


def _check_temperature(temperature: Any) -> None:
    """KerasHub divides by anything: by 0 it samples garbage, by a negative number the least probable tokens. Neither is ever meant."""
    is_number = isinstance(temperature, (int, float, np.integer, np.floating)) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0:
        message = f"a temperature is a number above 0, not {temperature!r}"
        raise InvalidInputError("KX532", message, hint="use `greedy` for no randomness")


def check_count(name: str, value: int, vocabulary_size: int | None = None) -> None:
    """Raise InvalidInputError (KX532) unless `value` is a whole number from 1 to the vocabulary's size."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError("KX532", f"`{name}` is a whole number of at least 1, not {value!r}")
    if vocabulary_size is not None and value > vocabulary_size:
        raise InvalidInputError("KX532", f"`{name}` is {value}, but the vocabulary has {vocabulary_size} tokens")
