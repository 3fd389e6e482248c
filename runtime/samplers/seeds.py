"""Keras's SeedGenerator as it behaves under TensorFlow: a state (seed, n) that every draw returns, and n that every draw advances."""

from __future__ import annotations

import random

_LARGEST_DEFAULT_SEED = 10**9
_SEED_MODULUS = 2**31 - 2  # Keras draws with floormod(state, 2**31 - 2)


class SeedGenerator:
    """The seeds of successive draws.

    `seed` None takes a random one, as Keras does. The counter goes on from one `generate()` to the next while the same sampler is used.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = random.randint(1, _LARGEST_DEFAULT_SEED) if seed is None else seed
        self.draws = 0

    def seed_of(self, step: int) -> tuple[int, int]:
        """The two-part seed of the draw that comes `step` draws from now."""
        return self.seed % _SEED_MODULUS, (self.draws + step) % _SEED_MODULUS

    def advance(self, steps: int) -> None:
        """`steps` draws were made."""
        self.draws += steps
