"""One draw from log-probabilities, equal to `tf.random.stateless_categorical(logits, 1, seed)` for the same seed.

TensorFlow has two kernels with different numbers, and the manifest says which one the original runs on (`Generation.rng`):

- `tf_cpu`: the inverse of the cumulative distribution in double precision. Rows are spread over threads, and a thread's stream starts at
  the block of its first row: with more than one row the draws depend on the number of threads (`row_shard`).
- `xla`: the largest Gumbel-perturbed log-probability, in single precision.

A row's draw depends on nothing but the seed, the row's place in the batch and the sizes, so rows can be drawn one by one, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.philox import Stream, stream_of_seed

LogProbabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A row's place in the draw: which row of how many, of how many candidates each, and the conditions the original draws under."""

    row: int
    batch_size: int
    candidates: int
    rng: Rng


def draw(log_probabilities: LogProbabilities, seed: tuple[int, int], place: Place) -> int:
    """The index drawn from one row of log-probabilities; -inf is never drawn.

    The row may be shorter than `place.candidates`: those missing at its end count as -inf.
    """
    return _KERNELS[place.rng.mode](log_probabilities, stream_of_seed(seed), place)


def gap(log_probabilities: LogProbabilities, seed: tuple[int, int], place: Place) -> float:
    """How far two log-probabilities must come together or part for another index to be drawn: what the distance of the two largest is to a greedy choice.

    `tf_cpu` draws the index whose share of the cumulative distribution holds a number u. Let a step of it be c, the probability of all candidates up
    to one. If each log-probability moves by at most d, c moves most where those up to it rise by d and the others fall by d: then the odds
    c / (1 - c) grow by the factor exp(2 d), or shrink by it the other way round. So u can fall on the other side of c only if
    |log(u / (1 - u)) - log(c / (1 - c))| <= 2 d; the smallest such distance, over all steps, is the gap. Its share of the distribution is about
    c (1 - c) gap. `xla` draws the largest perturbed log-probability: the gap is its distance from the second largest.

    Infinite where no move changes the draw.
    """
    return _GAPS[place.rng.mode](log_probabilities, stream_of_seed(seed), place)


def _uniform_and_cumulative(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> tuple[float, npt.NDArray[np.float64]]:
    """The number drawn, in [0, 1), and the running sum of the weights, which are not normalised."""
    first_row = row_shard(place.row, place.batch_size, place.candidates, place.rng.threads)
    uniform = _uniform_double(stream.skip(first_row), place.row - first_row)
    finite = np.isfinite(log_probabilities)
    largest = float(log_probabilities[finite].max())
    weights = np.where(finite, np.exp(log_probabilities.astype(np.float64) - largest), 0.0)
    return uniform, np.cumsum(weights)


def _draw_tf_cpu(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> int:
    uniform, cumulative = _uniform_and_cumulative(log_probabilities, stream, place)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def _gap_tf_cpu(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> float:
    uniform, cumulative = _uniform_and_cumulative(log_probabilities, stream, place)
    steps = cumulative / cumulative[-1]
    steps = steps[(steps > 0) & (steps < 1)]  # the others stay where they are
    return float(np.abs(log_odds(steps) - log_odds(uniform)).min(initial=np.inf))


def log_odds(share: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """log(c / (1 - c)) of shares from 0 to 1."""
    shares = np.asarray(share, np.float64)
    with np.errstate(divide="ignore"):
        odds: npt.NDArray[np.float64] = np.log(shares) - np.log1p(-shares)
    return odds


def _perturbed(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> LogProbabilities:
    uniform = _uniform_floats(stream, place.row * place.candidates, len(log_probabilities))
    with np.errstate(divide="ignore"):
        perturbed: LogProbabilities = log_probabilities - np.log(-np.log(uniform))
    return perturbed


def _draw_xla(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> int:
    return int(np.argmax(_perturbed(log_probabilities, stream, place)))


def _gap_xla(log_probabilities: LogProbabilities, stream: Stream, place: Place) -> float:
    perturbed = _perturbed(log_probabilities, stream, place)
    if len(perturbed) == 1:
        return math.inf
    second, first = np.partition(perturbed, -2)[-2:]
    return float(first - second)


_KERNELS: dict[str, Callable[[LogProbabilities, Stream, Place], int]] = {"tf_cpu": _draw_tf_cpu, "xla": _draw_xla}
_GAPS: dict[str, Callable[[LogProbabilities, Stream, Place], float]] = {"tf_cpu": _gap_tf_cpu, "xla": _gap_xla}

_WORDS_PER_DOUBLE = 2
_HIGH_BITS = 20  # a double takes 20 bits of one word and all 32 of the next: 52 bits after the binary point
_LOW_BITS = 32
_FLOAT_SHIFT = np.uint32(9)  # a float takes the upper 23 bits of a word
_FLOAT_ONE = np.uint32(0x3F800000)


def _uniform_double(stream: Stream, index: int) -> float:
    """The `index`-th uniform number in [0, 1) of a stream, with 52 random bits."""
    high, low = (int(word) for word in stream.words(_WORDS_PER_DOUBLE * index, _WORDS_PER_DOUBLE))
    bits = (high & ((1 << _HIGH_BITS) - 1)) << _LOW_BITS | low
    return math.ldexp(bits, -(_HIGH_BITS + _LOW_BITS))


def _uniform_floats(stream: Stream, start: int, count: int) -> LogProbabilities:
    """Uniform floats in [smallest normal float, 1), [count]."""
    words = stream.words(start, count)
    smallest = np.finfo(np.float32).tiny
    unit = ((words >> _FLOAT_SHIFT) | _FLOAT_ONE).view(np.float32) - np.float32(1)
    scaled: LogProbabilities = np.maximum(unit * (np.float32(1) - smallest) + smallest, smallest)
    return scaled


# Eigen's parallelFor splits the rows of StatelessMultinomial into blocks by estimated cost. The constants below are its own.
_CYCLES_PER_CANDIDATE = 50
_START_UP_CYCLES = 100_000
_CYCLES_PER_THREAD = 100_000
_THREAD_ROUNDING = 0.9
_SMALLEST_BLOCK_CYCLES = 40_000
_BLOCKS_PER_THREAD = 4
_EFFICIENCY_SLACK = 0.01


def row_shard(row: int, batch_size: int, candidates: int, threads: int) -> int:
    """The first row of the block of rows that one thread draws, among which `row` is."""
    cost = int(_CYCLES_PER_CANDIDATE * (math.log2(candidates) + candidates))
    useful_threads = min(threads, max(1, int((batch_size * cost - _START_UP_CYCLES) / _CYCLES_PER_THREAD + _THREAD_ROUNDING)))
    if batch_size <= 1 or threads == 1 or useful_threads == 1:
        return 0
    block = _block_size(batch_size, cost, threads)
    first, last = 0, batch_size
    while last - first > block:  # the halving by which the blocks are handed out; it decides where an odd block ends
        middle = first + _ceil_divide((last - first) // 2, block) * block
        if row < middle:
            last = middle
        else:
            first = middle
    return first


def _block_size(batch_size: int, cost: int, threads: int) -> int:
    """Rows of one block: as small as pays, then larger while that spreads the blocks more evenly over the threads."""
    block = min(batch_size, max(_ceil_divide(batch_size, _BLOCKS_PER_THREAD * threads), int(_SMALLEST_BLOCK_CYCLES / cost)))
    largest = min(batch_size, 2 * block)
    count = _ceil_divide(batch_size, block)
    efficiency = _efficiency(count, threads)
    previous = count
    while efficiency < 1 and previous > 1:
        coarser = _ceil_divide(batch_size, previous - 1)
        if coarser > largest:
            break
        previous = _ceil_divide(batch_size, coarser)
        coarser_efficiency = _efficiency(previous, threads)
        if coarser_efficiency + _EFFICIENCY_SLACK >= efficiency:
            block = coarser
            efficiency = max(efficiency, coarser_efficiency)
    return block


def _efficiency(blocks: int, threads: int) -> float:
    """The share of the threads' time that is work when every block takes one unit."""
    return blocks / (_ceil_divide(blocks, threads) * threads)


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
