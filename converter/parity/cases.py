"""What is compared at conversion: token-id prompts that reach every path of the artifact, and texts where there is a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

SEED = 20260101
RAGGED_LENGTHS = (5, 11, 8)
ENCODER_LENGTHS = (9, 4, 12)
NEW_TOKENS = 24
FIXED_TEXTS = ("The quick brown fox", " 12 of the 34 children said: \u201cno\u201d,", "Hello \U0001f600")
LOGIT_BYTES_AT_MOST = 256_000_000
FLOAT_BYTES = 4
# The long prompt's length is chosen so that running it stays affordable: about this many multiplications for the whole case.
LONG_CASE_OPERATIONS = 4e12


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `prompts`: token ids of each row, for the decoder; `encoder`: the same for the encoder of a seq2seq model.

    `max_length`: the padded length of the decoder's rows. `chunks`: feed prompts in pieces of these sizes (the last repeats). `images`: for each
    row one number an image: the column where its ids begin, or, of texts, any.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    max_length: int
    encoder: tuple[tuple[int, ...], ...] = ()
    stop_token_ids: tuple[int, ...] | None = None
    chunks: tuple[int, ...] = ()
    texts: tuple[str, ...] = field(default=())
    images: tuple[tuple[int, ...], ...] = ()

    def decoder_rows(self, pad: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ids [rows, max_length] and their mask."""
        return padded(self.prompts, self.max_length, pad)

    def encoder_rows(self, pad: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Encoder ids and their mask."""
        return padded(self.encoder, max((len(row) for row in self.encoder), default=1), pad)


def padded(rows: tuple[tuple[int, ...], ...], length: int, pad: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Rows of ids right-padded to `length`: int32 [rows, length] and the mask of real ids."""
    ids = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, True
    return ids, mask


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the cases are fitted to. `forbidden`: ids that random prompts leave out (padding and stop ids)."""

    vocabulary: int
    capacity: int
    encoder_capacity: int
    parameters: int
    seq2seq: bool
    forbidden: frozenset[int]


def random_prompts(generator: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    """Rows of these lengths, of ids that are neither padding nor stop ids."""
    allowed = np.array([token for token in range(sizes.vocabulary) if token not in sizes.forbidden])
    return tuple(tuple(int(token) for token in generator.choice(allowed, length)) for length in lengths)


def build_cases(sizes: Sizes) -> list[Case]:
    """The id-mode cases: a ragged batch, a prompt fed in pieces, a row alone, a long prompt that fills the cache."""
    generator = np.random.default_rng(SEED)
    new_tokens = _affordable_new_tokens(sizes)
    longest = max(2, min(max(RAGGED_LENGTHS), sizes.capacity - new_tokens))
    lengths = tuple(min(length, longest) for length in RAGGED_LENGTHS)
    encoder_longest = sizes.encoder_capacity or max(ENCODER_LENGTHS)
    encoder_lengths = tuple(min(length, encoder_longest) for length in ENCODER_LENGTHS) if sizes.seq2seq else ()
    ragged = Case("ragged batch", random_prompts(generator, lengths, sizes), max(lengths) + new_tokens, random_prompts(generator, encoder_lengths, sizes))
    first = replace(ragged, name="one row", prompts=ragged.prompts[:1], encoder=ragged.encoder[:1], max_length=lengths[0] + new_tokens)
    split = replace(first, name="prompt in pieces", prompts=ragged.prompts[1:2], encoder=ragged.encoder[1:2], max_length=lengths[1] + 2, chunks=(1, 2, 3))
    return [ragged, first, split, *_long_case(generator, sizes)]


def _affordable_new_tokens(sizes: Sizes) -> int:
    by_memory = LOGIT_BYTES_AT_MOST // (FLOAT_BYTES * sizes.vocabulary * len(RAGGED_LENGTHS)) - max(RAGGED_LENGTHS)
    return max(2, min(NEW_TOKENS, by_memory, sizes.capacity - 2))


def _long_case(generator: np.random.Generator, sizes: Sizes) -> list[Case]:
    """A prompt up to the capacity, so that the last positions and full windows are seen, where that is affordable."""
    by_work = int(LONG_CASE_OPERATIONS / max(1, 2 * sizes.parameters))
    by_memory = LOGIT_BYTES_AT_MOST // (FLOAT_BYTES * sizes.vocabulary)
    length = min(sizes.capacity, by_work, by_memory)
    new_tokens = 4
    if length <= 2 * max(RAGGED_LENGTHS) + new_tokens:
        return []
    encoder = random_prompts(generator, (sizes.encoder_capacity or max(ENCODER_LENGTHS),), sizes) if sizes.seq2seq else ()
    name = "full cache" if length == sizes.capacity else f"long prompt ({length} of {sizes.capacity} positions)"
    return [Case(name, random_prompts(generator, (length - new_tokens,), sizes), length, encoder)]


def stop_case(case: Case, tokens: NDArray[np.int32]) -> Case | None:
    """The same run, stopped in the middle of its first row: at a token of that row which occurs there for the first time."""
    row, start = tokens[0].tolist(), len(case.prompts[0])
    middle = (start + case.max_length) // 2
    fresh = [token for place, token in enumerate(row) if place >= middle and token not in row[start:place]]
    return replace(case, name="stop in the middle", stop_token_ids=(fresh[0],)) if fresh else None
