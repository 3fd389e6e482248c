"""The generation loop: KerasHub's, token for token.

KerasHub fills one column of the padded batch after the other, beginning at the length of the shortest row, in all rows at once; where the
prompt mask is True the prompt's token stays. It stops in front of the first column at which every row holds a stop id outside its prompt
*anywhere in the buffer*, pad content that is not filled yet included. Rows that have stopped go on being sampled until all have.

For caches of keys and values a row's tokens do not depend on the other rows, so `IndependentRows` prefills each row with its whole prompt
and lets it run at its own pace: the random draw of a column is found by the column's number, and the stop column is found afterwards
from what all rows hold. `LockStep` is the literal schedule, for samplers that see several rows or several steps at once, and for models whose
states take every token that they are fed.

KerasHub prefills the whole padded buffer and feeds each row's token in front of the first column once more. Where that leaves what a prefill of
the prompt alone leaves, the latter is done; where it does not (`Job.prefill`), the former.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.engines.base import CacheState, Engine, HiddenStates
from kexport.runtime.images.prefill import ImagePrefill
from kexport.runtime.prompts import Ids, Mask, Prompt, output_mask
from kexport.runtime.samplers.base import Draw, Logits, Sampler

_NEVER = np.iinfo(np.int64).max
_PADDING, _ANY_TOKEN = 0, 1  # ids of models with split prompts
_SHRINK_BELOW = 0.5  # the share of rows still running under which the caches of the others are dropped


@dataclass(frozen=True)
class Job:
    """One call of `generate()` on one batch.

    `encoder`: the encoder's prompt of a seq2seq model. `stop_ids` None never stops early. `visible_only`: tokens behind a row's first stop
    id need not be KerasHub's, because nobody will see them. `schedule` and `prefill`: what the model needs, see the manifest's `Generation`.
    `images`: those in the prompts, for loops of independent rows.
    """

    prompt: Prompt
    encoder: Prompt | None = None
    stop_ids: tuple[int, ...] | None = None
    visible_only: bool = False
    rng: Rng = field(default_factory=Rng)
    schedule: Literal["rows", "lock_step"] = "rows"
    prefill: Literal["prompt", "buffer"] = "prompt"
    images: ImagePrefill | None = None


@dataclass(frozen=True)
class Generated:
    """What `generate()` returns: ids [batch, length] and the mask of what is visible."""

    ids: Ids
    mask: Mask


class Loop(Protocol):
    """A loop over the columns that may be looked into: `ids` [batch, length] and `columns` [batch] may be read between steps; row b is final up to
    `columns[b]` where there is one row."""

    ids: Ids
    columns: npt.NDArray[np.int64]

    def steps(self) -> Iterator[None]:
        """Run; yields whenever there is something new to see."""

    def result(self) -> Generated:
        """What KerasHub's loop leaves, once all steps are made."""


def generate(engine: Engine, sampler: Sampler, job: Job, *, lock_step: bool | None = None) -> Generated:
    """Run the whole loop. `lock_step` None lets the sampler and the model decide."""
    loop = loop_of(engine, sampler, job, lock_step=lock_step)
    for _ in loop.steps():
        pass
    return loop.result()


def loop_of(engine: Engine, sampler: Sampler, job: Job, *, lock_step: bool | None = None) -> Loop:
    """The loop that `generate` runs."""
    if sampler.needs_hidden_states and job.prompt.prefix is not None:
        _check_table(job.prompt)
    together = job.schedule == "lock_step" or sampler.steps_together(len(job.prompt.ids)) if lock_step is None else lock_step
    return LockStep(engine, sampler, job) if together else IndependentRows(engine, sampler, job)


def _check_table(prompt: Prompt) -> None:
    """Raises UnsupportedError (KX559) where KerasHub's own contrastive search fails (or, over a table of one token, forgets), and for hidden ids that it reads."""
    assert prompt.prefix is not None
    (_, table), (_, buffer) = prompt.prefix.ids.shape, prompt.ids.shape
    if table != buffer:
        message = f"contrastive search, as KerasHub has it, needs a prompt's table ({table} tokens) as long as the buffer of new tokens ({buffer})"
        raise UnsupportedError("KX559", message, hint=f"ask for max_length={table - 1}, or choose another sampler")
    if (prompt.prefix.ids[:, 0][~prompt.prefix.mask[:, 0]] != _PADDING).any():
        raise UnsupportedError("KX559", "contrastive search compares with the table's first token, which the mask hides", hint="pad with the id 0")


class LockStep:
    """All rows together, one column after the other: KerasHub's own schedule. See `Loop`; a sampler that is in charge of the whole batch shows
    nothing before its end."""

    def __init__(self, engine: Engine, sampler: Sampler, job: Job) -> None:
        self._engine, self._sampler, self._job = engine, sampler, job
        self.ids = job.prompt.ids.copy()
        self.columns = np.full(len(self.ids), job.prompt.start)

    def steps(self) -> Iterator[None]:
        job, sampler = self._job, self._sampler
        start = job.prompt.start
        if start >= self.ids.shape[1] or _StopColumn(job).all_done(start):
            return
        decoder = EngineDecoder(self._engine, _open_cache(self._engine, job, len(self.ids)), job.rng)
        decoder.take_prompt(job.prompt, job.prefill, with_hidden_states=sampler.needs_hidden_states)
        finished = _finished(job.stop_ids)
        if sampler.steps_together(len(self.ids)):
            self.ids = sampler.run(decoder, self.ids, job.prompt.mask, start, finished)
            return
        for filled in sampler.columns(decoder, self.ids, job.prompt.mask, start, finished):
            self.columns[:] = filled
            yield

    def result(self) -> Generated:
        return Generated(self.ids, output_mask(self.ids, self._job.prompt.mask, self._job.stop_ids))


class IndependentRows:
    """The loop with every row at its own pace. See `Loop`."""

    def __init__(self, engine: Engine, sampler: Sampler, job: Job) -> None:
        self._engine, self._sampler, self._job = engine, sampler, job
        self._mask = job.prompt.mask
        self._start = job.prompt.start
        self._length = job.prompt.ids.shape[1]
        self._stop = _StopColumn(job)
        self._stop_column: int | None = None
        self.ids = job.prompt.ids.copy()
        self.columns = _first_open_column(self._mask, self._start)

    def steps(self) -> Iterator[None]:
        """Run; yields whenever every running row has one more token."""
        self._stop_column = self._stop.find(self._frontier(self._running()))
        running = self._running()
        if self._stop_column is None and running.size:
            cache = _open_cache(self._engine, self._job, len(running), running)
            yield from self._fill(cache, running, self._prefill(cache, running))
        if self._stop_column is None:
            self._stop_column = self._length
        self._sampler.finish(self._stop_column - self._start)

    def result(self) -> Generated:
        """What KerasHub's loop leaves: columns from the stop column on hold what they held before."""
        stop_column = self._length if self._stop_column is None else self._stop_column
        self.ids[:, stop_column:] = self._job.prompt.ids[:, stop_column:]
        return Generated(self.ids, output_mask(self.ids, self._mask, self._job.stop_ids))

    def _prefill(self, cache: CacheState, rows: npt.NDArray[np.intp]) -> Logits:
        """Feed each row's prompt; the logits of its first open column."""
        prefixes = self.columns[rows]
        cache.prefilled = self._start - 1, self._length
        if self._job.images is not None:
            return self._engine.extend(cache, *self._job.images.fill(self._engine, cache, rows, self.ids[rows, : prefixes.max()], prefixes))
        if _prompt_is_enough(self._job.prefill, self._engine):
            return self._engine.extend(cache, *self._job.prompt.first_tokens(self.ids, rows, prefixes))
        _Feed(self._engine, cache).buffer(Prompt(self.ids[rows], self._mask[rows]), prefixes - 1)
        return self._engine.extend(cache, self.ids[rows, prefixes - 1][:, None])

    def _fill(self, cache: CacheState, rows: npt.NDArray[np.intp], logits: Logits) -> Iterator[None]:
        """`rows`: which row each row of the cache and of `logits` is."""
        while True:
            self._choose(rows, logits)
            running = self._running()
            self._stop_column = self._stop.find(self._frontier(running))
            yield
            if self._stop_column is not None or not running.size:
                return
            if running.size <= _SHRINK_BELOW * len(rows):
                cache.reorder(np.flatnonzero(np.isin(rows, running)))
                rows = running
            is_running = np.isin(rows, running)
            tokens = self.ids[rows, np.minimum(self.columns[rows], self._length) - 1]
            logits = self._engine.extend(cache, tokens[:, None], is_running.astype(np.int64))

    def _choose(self, rows: npt.NDArray[np.intp], logits: Logits) -> None:
        """Write the next token of every running row and move it on."""
        places = np.flatnonzero(np.isin(rows, self._running()))
        probabilities = self._sampler.probabilities(logits[places])
        for row, row_probabilities in zip(rows[places].tolist(), probabilities, strict=True):
            column = int(self.columns[row])
            if not self._mask[row, column]:
                draw = Draw(column - self._start, row, len(self.ids), self._job.rng)
                self.ids[row, column] = self._sampler.next_token(row_probabilities, draw)
                self._stop.generated(row, column, int(self.ids[row, column]))
            self.columns[row] += 1

    def _running(self) -> npt.NDArray[np.intp]:
        """The rows that need another token."""
        running = self.columns < self._length
        if self._job.visible_only:
            running &= self._stop.first_generated == _NEVER
        return np.flatnonzero(running)

    def _frontier(self, running: npt.NDArray[np.intp]) -> int:
        """Up to which column everything that decides the stop is known."""
        return int(self.columns[running].min(initial=self._length))


class _StopColumn:
    """Finds the column in front of which the loop stops.

    At column i a row counts as done where a stop id outside its prompt stands in front of i (generated, or in a hole of the mask), or
    from i on (content that is not overwritten yet).
    """

    def __init__(self, job: Job) -> None:
        prompt = job.prompt
        self._stop_ids = frozenset(job.stop_ids or ())
        self._length = prompt.ids.shape[1]
        self._next_column = prompt.start
        content = np.isin(prompt.ids, job.stop_ids or ()) & ~prompt.mask
        columns = np.arange(self._length)
        self._last_content = np.where(content, columns, -1).max(axis=1)
        before_start = content & (columns < prompt.start)
        self._first_stop = np.where(before_start, columns, _NEVER).min(axis=1)
        self.first_generated = np.full(len(prompt.ids), _NEVER)

    def generated(self, row: int, column: int, token: int) -> None:
        """`token` was generated into `row` and `column`."""
        if token in self._stop_ids:
            self._first_stop[row] = min(self._first_stop[row], column)
            self.first_generated[row] = min(self.first_generated[row], column)

    def all_done(self, column: int) -> bool:
        """Whether every row is done in front of `column`."""
        return bool(((column <= self._last_content) | (column > self._first_stop)).all())

    def find(self, frontier: int) -> int | None:
        """The first column up to `frontier` (included) at which all rows are done; None if the loop goes on beyond it."""
        while self._next_column < min(frontier + 1, self._length):
            if self.all_done(self._next_column):
                return self._next_column
            self._next_column += 1
        return None


class EngineDecoder:
    """A cache and its engine, as lock-step samplers use them."""

    def __init__(self, engine: Engine, cache: CacheState, rng: Rng) -> None:
        self._engine, self._cache = engine, cache
        self._prompt_hidden_states = np.zeros((cache.batch_size, 0, engine.hidden_size), np.float32)
        self.rng = rng

    def take_prompt(self, prompt: Prompt, prefill: Literal["prompt", "buffer"], *, with_hidden_states: bool = False, pieces: Sequence[int] = ()) -> None:
        """Prefill, so that the next step feeds the last token that all rows' prompts have. `pieces`: in calls of so many tokens, the last number
        again and again, instead of in one."""
        if prompt.prefix is not None:
            rows = np.arange(len(prompt.ids))
            self._engine.extend(self._cache, *prompt.first_tokens(prompt.ids, rows, np.zeros(len(rows), np.int64)))
            if with_hidden_states:
                self._prompt_hidden_states = self._of_first_column(prompt.prefix)
            return
        feed = _Feed(self._engine, self._cache, with_hidden_states=with_hidden_states, pieces=pieces)
        held, length = prompt.start - 1, prompt.ids.shape[1]
        # Where it counts which call computes a token, what contrastive search compares with is the last one's state in the prefill, not in the first step.
        fed = prompt.start if with_hidden_states and self._engine.takes_extents else held
        self._cache.prefilled = fed, length
        if not _prompt_is_enough(prefill, self._engine):
            states = feed.buffer(prompt, np.full(len(prompt.ids), held))
        else:
            states = feed.prompt(prompt.ids[:, :fed])
        if fed > held:
            self._cache.step_back(np.full(len(prompt.ids), held))
        self._cache.prefilled = held, length
        self._prompt_hidden_states = states[:, : prompt.start]

    def _of_first_column(self, table: Prompt) -> HiddenStates:
        """What KerasHub compares with of a prompt's table: its first column, often padding, and nothing else. The model gives padding's hidden state for
        padding behind padding, whatever is in front of that."""
        is_token = table.mask[:, :1]
        tokens = np.where(is_token, table.ids[:, :1], _ANY_TOKEN)
        row = np.concatenate([tokens, np.full((len(tokens), 2), _PADDING)], axis=1).astype(np.int32)
        _, states = self._engine.extend_with_hidden_states(self._engine.new_cache(*row.shape), row)
        return np.where(is_token[..., None], states[:, :1], states[:, 2:])

    def step(self, tokens: Ids) -> Logits:
        return self._engine.extend(self._cache, tokens[:, None])

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        self._cache.reorder(rows)

    def step_with_hidden_states(self, tokens: Ids) -> tuple[Logits, HiddenStates]:
        logits, hidden_states = self._engine.extend_with_hidden_states(self._cache, tokens[:, None])
        return logits, hidden_states[:, 0]

    def prompt_hidden_states(self) -> HiddenStates:
        return self._prompt_hidden_states


def _prompt_is_enough(prefill: Literal["prompt", "buffer"], engine: Engine) -> bool:
    """Whether the padding behind a prompt need not be prefilled: it changes nothing, or the model is told what the original's calls were."""
    return prefill == "prompt" or engine.takes_extents


@dataclass(frozen=True)
class _Feed:
    """Prefills of all rows together. See `EngineDecoder.take_prompt` for `pieces`; both methods give the hidden states, if wanted."""

    engine: Engine
    cache: CacheState
    with_hidden_states: bool = False
    pieces: Sequence[int] = ()

    def buffer(self, prompt: Prompt, held: npt.NDArray[np.int64]) -> HiddenStates:
        """Feed the whole buffer, padding and all, then go back to where row b holds `held[b]` tokens.

        Raises UnsupportedError (KX562) for masks with holes where the model is told where padding starts.
        """
        if self.engine.marks_padding and (prompt.mask[:, 1:] > prompt.mask[:, :-1]).any():
            message = "`padding_mask` has False in front of True, which this model's states are not exported for"
            raise UnsupportedError("KX562", message, hint="pad on the right only")
        self.cache.valid_lengths = prompt.mask.sum(axis=1)
        hidden_states = self.prompt(prompt.ids)
        self.cache.valid_lengths = None
        self.cache.step_back(held)
        return hidden_states

    def prompt(self, ids: Ids) -> HiddenStates:
        """Append [rows, tokens], which may be none."""
        rows, length = ids.shape
        hidden_states, done, sizes = [np.zeros((rows, 0, self.engine.hidden_size), np.float32)], 0, list(self.pieces) or [length]
        while done < length:
            piece = ids[:, done : done + (sizes.pop(0) if len(sizes) > 1 else sizes[0])]
            if self.with_hidden_states:
                hidden_states.append(self.engine.extend_with_hidden_states(self.cache, piece)[1])
            else:
                self.engine.extend(self.cache, piece)
            done += piece.shape[1]
        return np.concatenate(hidden_states, axis=1)


def _open_cache(engine: Engine, job: Job, row_count: int, rows: npt.NDArray[np.intp] | None = None) -> CacheState:
    """Caches for `rows` of the job (None: all), the encoder's part filled."""
    cache = engine.new_cache(row_count, job.prompt.longest)
    if job.encoder is not None:
        chosen = slice(None) if rows is None else rows
        engine.encode(job.encoder.ids[chosen], job.encoder.mask[chosen], cache)
    return cache


def _first_open_column(mask: Mask, start: int) -> npt.NDArray[np.int64]:
    """Per row the first column from `start` on that the prompt does not fill; the length where there is none."""
    columns = np.arange(mask.shape[1])
    is_open = ~mask & (columns >= start)
    first: npt.NDArray[np.int64] = np.where(is_open, columns, mask.shape[1]).min(axis=1)
    return first


def _finished(stop_ids: tuple[int, ...] | None) -> Any:
    """The stop test for `Sampler.run`."""
    if stop_ids is None:
        return lambda ids, mask: False
    return lambda ids, mask: bool((np.isin(ids, stop_ids) & ~mask).any(axis=1).all())
