"""Philox4x32-10, the counter-based generator behind TensorFlow's stateless random ops, and the key TensorFlow makes from a seed.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011): ten rounds of two 32x32 -> 64 bit products over a 128-bit counter
and a 64-bit key. Checked against TensorFlow 2.21 (tests/golden/samplers.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS_PER_BLOCK = 4
_ROUNDS = 10
_WORD_BITS = 32
_WORD_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_FEW_BLOCKS = 8  # below this, whole numbers of Python are faster than arrays
_SCRAMBLE_KEY = (0x3EC8F720, 0x02461E29)  # TensorFlow's constant key for turning a seed into a key

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Stream:
    """A stream of 32-bit words: block i is the cipher of counter + i."""

    key: tuple[int, int]
    counter: int

    def words(self, start: int, count: int) -> Words:
        """Words `start` to `start + count` of the stream, [count] uint32."""
        first, last = start // WORDS_PER_BLOCK, -(-(start + count) // WORDS_PER_BLOCK)
        blocks = _cipher(self.key, self.counter + first, last - first).reshape(-1)
        offset = start - first * WORDS_PER_BLOCK
        return blocks[offset : offset + count]

    def skip(self, blocks: int) -> Stream:
        """The stream that begins `blocks` blocks later."""
        return Stream(self.key, self.counter + blocks)


def stream_of_seed(seed: tuple[int, int]) -> Stream:
    """The stream of a stateless op with this two-part seed: one block scrambles the seed into key and upper half of the counter."""
    counter = _unsigned64(seed[0]) | _unsigned64(seed[1]) << (2 * _WORD_BITS)
    key_low, key_high, counter_low, counter_high = _cipher_words(_SCRAMBLE_KEY, _words_of(counter))
    return Stream((key_low, key_high), (counter_low | counter_high << _WORD_BITS) << (2 * _WORD_BITS))


def _cipher(key: tuple[int, int], counter: int, count: int) -> Words:
    """`count` blocks from `counter` on, [count, 4]."""
    if count < _FEW_BLOCKS:
        return np.array([_cipher_words(key, _words_of(counter + block)) for block in range(count)], np.uint32)
    return np.stack(_cipher_words(key, _counter_columns(counter, count)), axis=-1).astype(np.uint32)


def _cipher_words(key: tuple[int, int], words: list[Any]) -> list[Any]:
    """The four words of a block, as whole numbers or as columns of uint64: the arithmetic is the same."""
    key_low, key_high = key
    for _ in range(_ROUNDS):
        product_0, product_1 = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [
            (product_1 >> _WORD_BITS) ^ words[1] ^ key_low,
            product_1 & _WORD_MASK,
            (product_0 >> _WORD_BITS) ^ words[3] ^ key_high,
            product_0 & _WORD_MASK,
        ]
        key_low, key_high = (key_low + _KEY_STEPS[0]) & _WORD_MASK, (key_high + _KEY_STEPS[1]) & _WORD_MASK
    return words


def _words_of(counter: int) -> list[int]:
    """A 128-bit counter as four words, the lowest first."""
    return [(counter >> (_WORD_BITS * word)) & _WORD_MASK for word in range(WORDS_PER_BLOCK)]


def _counter_columns(counter: int, count: int) -> list[npt.NDArray[np.uint64]]:
    """The words of counter, counter + 1, ... as columns [count], carries included."""
    carry = np.arange(count, dtype=np.uint64)
    columns = []
    for word in _words_of(counter):
        total = carry + np.uint64(word)
        columns.append(total & np.uint64(_WORD_MASK))
        carry = total >> np.uint64(_WORD_BITS)
    return columns


def _unsigned64(value: int) -> int:
    return value & ((1 << (2 * _WORD_BITS)) - 1)
