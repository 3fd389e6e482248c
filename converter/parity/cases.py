"""What is compared at conversion: token-id prompts that reach every path of the artifact, and texts where there is a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from kexport.runtime.prompt_forms import FORMS
from numpy.typing import NDArray

SEED = 20260101
RAGGED_LENGTHS = (5, 11, 8)
ENCODER_LENGTHS = (9, 4, 12)
NEW_TOKENS = 24
FIXED_TEXTS = ("The quick brown fox", " 12 of the 34 children said: \u201cno\u201d,", "Hello \U0001f600")
SPLIT_PROMPT, SPLIT_NEW_TOKENS = 20, 140  # of the long case where prompts are split; a prompt beyond one chunk of a parallel form
SEEDED_NEW_TOKENS = 10
SAMPLING_SEED = 2026
CANDIDATES = 5  # KerasHub's default for top_k
LOGIT_BYTES_AT_MOST = 256_000_000
FLOAT_BYTES = 4
# The long prompt's length is chosen so that running it stays affordable: about this many multiplications for the whole case.
LONG_CASE_OPERATIONS = 4e12


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `prompts`: token ids of each row, for the decoder; `encoder`: the same for the encoder of a seq2seq model.

    `max_length`: the padded length of the decoder's rows. `chunks`: feed prompts in pieces of these sizes (the last repeats). `schedule` and
    `prefill`: how the original feeds its model (see the manifest's `Generation`), where forced tokens must be fed in the same way. `images`: for each
    row one number an image: the column where its ids begin, or, of texts, any. `sampler`: its class name and config, with a seed; empty for greedy.
    `split`: prompts are, and each row's first new token is the original's first step.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    max_length: int
    encoder: tuple[tuple[int, ...], ...] = ()
    stop_token_ids: tuple[int, ...] | None = None
    chunks: tuple[int, ...] = ()
    texts: tuple[str, ...] = field(default=())
    schedule: Literal["rows", "lock_step"] = "rows"
    prefill: Literal["prompt", "buffer"] = "prompt"
    images: tuple[tuple[int, ...], ...] = ()
    sampler: dict[str, Any] = field(default_factory=dict)
    split: bool = False

    @property
    def is_literal(self) -> bool:
        """Whether logits depend on how the original's loop feeds tokens: from the shortest prompt on, after a prefill of the padded prompts."""
        return self.schedule == "lock_step" or self.prefill == "buffer"

    @property
    def start(self) -> int:
        """The first column that the original's loop fills."""
        return min(map(len, self.prompts))

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


def generate_inputs(case: Case, pad: int, form: str) -> dict[str, NDArray[Any]]:
    """What `generate()` takes for a case, with prompts in the form of that name (runtime/prompt_forms.py)."""
    arrays = FORMS[form].arrays(case.prompts, FORMS[form].length_for(case.start, case.max_length - case.start), pad)
    if not case.encoder:
        return arrays
    encoder_ids, encoder_mask = case.encoder_rows(pad)
    return {"encoder_token_ids": encoder_ids, "encoder_padding_mask": encoder_mask, **{f"decoder_{name}": array for name, array in arrays.items()}}


def generated_rows(case: Case, result: Mapping[str, Any], form: str) -> NDArray[np.int32]:
    """The rows [rows, max_length] of what `generate()` gave; of split prompts each without the padding in front, cut to one length."""
    ids = np.asarray(result["decoder_token_ids" if case.encoder else "token_ids"], np.int32)
    return np.stack([row[start : start + case.max_length] for row, start in zip(ids, FORMS[form].starts(case.prompts), strict=True)])


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the cases are fitted to. `forbidden`: ids that random prompts leave out (padding and stop ids). `schedule`, `prefill`: see Case. `split`:
    the prompts are, and KerasHub compiles its prefill of them token by token: long ones would take it forever."""

    vocabulary: int
    capacity: int
    encoder_capacity: int
    parameters: int
    seq2seq: bool
    forbidden: frozenset[int]
    split: bool = False
    schedule: Literal["rows", "lock_step"] = "rows"
    prefill: Literal["prompt", "buffer"] = "prompt"


def random_prompts(generator: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    """Rows of these lengths, of ids that are neither padding nor stop ids."""
    allowed = np.array([token for token in range(sizes.vocabulary) if token not in sizes.forbidden])
    return tuple(tuple(int(token) for token in generator.choice(allowed, length)) for length in lengths)


def build_cases(sizes: Sizes) -> list[Case]:
    """The id-mode cases: a ragged batch, a row alone, a prompt (or the buffer it is padded to, where that is prefilled) fed in pieces, a long prompt
    that fills the cache."""
    generator = np.random.default_rng(SEED)
    new_tokens = _affordable_new_tokens(sizes)
    longest = max(2, min(max(RAGGED_LENGTHS), sizes.capacity - new_tokens))
    lengths = tuple(min(length, longest) for length in RAGGED_LENGTHS)
    encoder_longest = sizes.encoder_capacity or max(ENCODER_LENGTHS)
    encoder_lengths = tuple(min(length, encoder_longest) for length in ENCODER_LENGTHS) if sizes.seq2seq else ()
    spread = max(lengths) - min(lengths) if sizes.split else 0  # there all rows get as many new tokens as the shortest
    length = min(max(lengths) + new_tokens, sizes.capacity - spread)
    ragged = Case("ragged batch", random_prompts(generator, lengths, sizes), length, random_prompts(generator, encoder_lengths, sizes))
    first = replace(ragged, name="one row", prompts=ragged.prompts[:1], encoder=ragged.encoder[:1], max_length=lengths[0] + new_tokens)
    split = replace(first, name=f"{sizes.prefill} in pieces", prompts=ragged.prompts[1:2], encoder=ragged.encoder[1:2], max_length=lengths[1] + 2, chunks=(1, 2, 3))
    cases = (ragged, first, split, *_long_case(generator, sizes))
    return [replace(case, schedule=sizes.schedule, prefill=sizes.prefill, split=sizes.split) for case in cases]


def seeded_cases(cases: list[Case], sizes: Sizes) -> list[Case]:
    """A short ragged batch and a short row alone with seeded draws. The whole vocabulary is drawn from for one row only: of several rows the original's
    draws would depend on the machine's number of threads (runtime/samplers/categorical.py), and another machine could not verify it.
    """
    top_k = {"class_name": "TopKSampler", "config": {"k": min(CANDIDATES, sizes.vocabulary), "seed": SAMPLING_SEED}}
    random = {"class_name": "RandomSampler", "config": {"seed": SAMPLING_SEED}}
    named = ((cases[0], "ragged batch, top_k seeded", top_k), (cases[1], "one row, random seeded", random))
    return [replace(case, name=name, sampler=sampler, max_length=_short(case)) for case, name, sampler in named]


def _short(case: Case) -> int:
    return min(case.max_length, max(map(len, case.prompts)) + SEEDED_NEW_TOKENS)


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
    if sizes.split:
        length = min(length, SPLIT_PROMPT + SPLIT_NEW_TOKENS)
        new_tokens = length - SPLIT_PROMPT
    encoder = random_prompts(generator, (sizes.encoder_capacity or max(ENCODER_LENGTHS),), sizes) if sizes.seq2seq else ()
    name = "full cache" if length == sizes.capacity else f"long {'row' if sizes.split else 'prompt'} ({length} of {sizes.capacity} positions)"
    return [Case(name, random_prompts(generator, (length - new_tokens,), sizes), length, encoder)]


def one_token_case(case: Case, sizes: Sizes) -> Case | None:
    """The first token of `case` alone, where that is a case of its own: a split prompt of one token leaves nothing in front of the buffer."""
    if not sizes.split:
        return None
    return replace(case, name="prompt of one token", prompts=(case.prompts[0][:1],), max_length=min(case.max_length, sizes.capacity - 1))


def stop_case(case: Case, tokens: NDArray[np.int32]) -> Case | None:
    """The same run, stopped in the middle of its first row: at a token of that row which occurs there for the first time."""
    row, start = tokens[0].tolist(), len(case.prompts[0])
    middle = (start + case.max_length) // 2
    fresh = [token for place, token in enumerate(row) if place >= middle and token not in row[start:place]]
    return replace(case, name="stop in the middle", stop_token_ids=(fresh[0],)) if fresh else None
