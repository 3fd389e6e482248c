"""The generation loop against KerasHub's own loop, written out literally here and run on an engine whose logits are a table of histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kexport.runtime import samplers
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.generation import Generated, IndependentRows, Job, generate, loop_of
from kexport.runtime.prompts import Prompt
from kexport.runtime.samplers.base import Draw

from .counting_engine import PADDING, VOCABULARY, CountingEngine, RecurrentEngine, logits_of

PAD = 0


def padded(rows: list[list[int]], length: int, dtype: Any = np.int32) -> Prompt:
    """Rows right padded with PAD to `length`."""
    ids, mask = np.full((len(rows), length), PAD, dtype), np.zeros((len(rows), length), bool)
    for row, values in enumerate(rows):
        ids[row, : len(values)], mask[row, : len(values)] = values, True
    return Prompt(ids, mask)


def literal_loop(sampler: Any, job: Job, encoder_rows: list[list[int]] | None = None, taken: list[list[int]] | None = None) -> Generated:
    """facts of KerasHub's loop, one line each, no caches: the truth of this file. `taken`: each row's state after the prefill."""
    ids, mask = job.prompt.ids.copy(), job.prompt.mask
    start = index = int(mask.sum(axis=1).min())
    while index < ids.shape[1]:
        if job.stop_ids is not None and (np.isin(ids, job.stop_ids) & ~mask).any(axis=1).all():
            break
        for row in range(len(ids)):
            if taken is not None:
                taken[row].append(int(ids[row, index - 1]))
            logits = logits_of(ids[row, :index].tolist(), taken[row] if taken else encoder_rows[row] if encoder_rows else ())
            token = sampler.next_token(sampler.probabilities(logits[None])[0], Draw(index - start, row, len(ids), job.rng))
            if not mask[row, index]:
                ids[row, index] = token
        index += 1
    sampler.finish(index - start)
    if job.stop_ids is None:
        return Generated(ids, np.ones(ids.shape, bool))
    visible = np.ones(ids.shape, bool)
    for row in range(len(ids)):
        stops = np.flatnonzero(np.isin(ids[row], job.stop_ids) & ~mask[row])
        if stops.size:
            visible[row, stops[0] + 1 :] = False
    return Generated(ids, visible)


def assert_equal(got: Generated, expected: Generated) -> None:
    """Ids and masks, every position."""
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.mask, expected.mask)
    assert got.ids.dtype == expected.ids.dtype


SAMPLERS: list[Any] = [
    "greedy",
    {"class_name": "RandomSampler", "config": {"seed": 5}},
    {"class_name": "TopKSampler", "config": {"seed": 6, "k": 3}},
    {"class_name": "TopPSampler", "config": {"seed": 7, "p": 0.8}},
]
prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=4)
stops = st.one_of(st.none(), st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12).map(tuple))


@given(rows=prompts, room=st.integers(0, 12), stop_ids=stops, sampler=st.sampled_from(SAMPLERS), mode=st.sampled_from(["tf_cpu", "xla"]))
@settings(max_examples=150, deadline=None)
def test_both_schedules_are_keras_hubs(rows: list[list[int]], room: int, stop_ids: Any, sampler: Any, mode: Any) -> None:
    """Ids and masks of a ragged batch, behind the stop too, and again in the next call of the same sampler."""
    length = max(len(row) for row in rows) + room
    job = Job(padded(rows, length), stop_ids=stop_ids, rng=Rng(mode=mode, threads=2))
    literal, independent, lock_step = (samplers.get(sampler) for _ in range(3))
    for _ in range(2):
        expected = literal_loop(literal, job)
        assert_equal(generate(CountingEngine(), independent, job, lock_step=False), expected)
        assert_equal(generate(CountingEngine(), lock_step, job, lock_step=True), expected)


def buffers(prompt: Prompt) -> list[list[int]]:
    """What a state holds once the whole buffer is prefilled."""
    return [np.where(mask, ids, PADDING).tolist() for ids, mask in zip(prompt.ids, prompt.mask, strict=True)]


@given(rows=prompts, room=st.integers(0, 12), stop_ids=stops, sampler=st.sampled_from(SAMPLERS), visible_only=st.booleans())
@settings(max_examples=150, deadline=None)
def test_states_take_what_keras_hub_feeds(rows: list[list[int]], room: int, stop_ids: Any, sampler: Any, visible_only: bool) -> None:
    """The whole buffer with its padding, then the last token of the shortest prompt once more, and rows behind their stop id go on being fed."""
    length = max(len(row) for row in rows) + room
    job = Job(padded(rows, length), stop_ids=stop_ids, visible_only=visible_only, schedule="lock_step", prefill="buffer")
    literal, ours = (samplers.get(sampler) for _ in range(2))
    for _ in range(2):
        expected = literal_loop(literal, job, taken=buffers(job.prompt))
        assert_equal(generate(RecurrentEngine(), ours, job), expected)


@given(rows=prompts, room=st.integers(0, 12), stop_ids=stops, sampler=st.sampled_from(SAMPLERS))
@settings(max_examples=50, deadline=None)
def test_a_prefilled_buffer_leaves_rows_their_pace(rows: list[list[int]], room: int, stop_ids: Any, sampler: Any) -> None:
    """A model without states whose prefill must see the buffer gives what KerasHub gives, each row at its own pace."""
    length = max(len(row) for row in rows) + room
    job = Job(padded(rows, length), stop_ids=stop_ids, prefill="buffer")

    class Engine(CountingEngine):
        """Keys and values: going back forgets."""

        def new_cache(self, batch_size: int, capacity: int) -> Any:
            return RecurrentEngine().new_cache(batch_size, capacity)

    assert_equal(generate(Engine(), samplers.get(sampler), job), literal_loop(samplers.get(sampler), job))


def test_a_row_in_lock_step_is_streamed() -> None:
    """One row shows each of its tokens as it comes, and takes none back; beams show nothing before the end."""
    job = Job(padded([[1, 2]], 12), schedule="lock_step", prefill="buffer")
    for sampler, shown in (("greedy", 10), ("beam", 0)):
        loop = loop_of(RecurrentEngine(), samplers.get(sampler), job)
        seen = [loop.ids[0, : loop.columns[0]].tolist() for _ in loop.steps()]
        result = loop.result().ids[0].tolist()
        assert len(seen) == shown and all(result[: len(part)] == part for part in seen)


def test_beams_go_on_from_the_buffer() -> None:
    """Beam search over one beam is greedy, on states as well: the buffer is prefilled once, before rows become beams."""
    job = Job(padded([[1, 2, 3], [4]], 9), schedule="lock_step", prefill="buffer")
    one_beam = samplers.get({"class_name": "BeamSampler", "config": {"num_beams": 1}})
    assert_equal(generate(RecurrentEngine(), one_beam, job), generate(RecurrentEngine(), samplers.get("greedy"), job))


def test_states_do_not_take_masks_with_holes() -> None:
    """An id outside the mask in front of one inside it would enter the states: told before anything runs."""
    job = Job(Prompt(np.array([[1, 2, 3, 4]]), np.array([[True, False, True, False]])), schedule="lock_step", prefill="buffer")
    with pytest.raises(UnsupportedError, match="KX562"):
        generate(RecurrentEngine(), samplers.get("greedy"), job)


@given(rows=prompts, room=st.integers(0, 12), stop_ids=stops, sampler=st.sampled_from(SAMPLERS))
@settings(max_examples=100, deadline=None)
def test_visible_only_shows_the_same(rows: list[list[int]], room: int, stop_ids: Any, sampler: Any) -> None:
    """What a reader of text sees is the same when rows stop at their own stop id, and the seed goes on as far."""
    length = max(len(row) for row in rows) + room
    full, short = samplers.get(sampler), samplers.get(sampler)
    expected = generate(CountingEngine(), full, Job(padded(rows, length), stop_ids=stop_ids))
    got = generate(CountingEngine(), short, Job(padded(rows, length), stop_ids=stop_ids, visible_only=True))
    np.testing.assert_array_equal(got.mask, expected.mask)
    np.testing.assert_array_equal(got.ids[got.mask], expected.ids[expected.mask])
    if full.seed_generator is not None and short.seed_generator is not None:
        assert short.seed_generator.draws == full.seed_generator.draws


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_masks_with_holes(data: st.DataObject) -> None:
    """Given ids stay wherever the mask is True; holes in front of the start are read and not filled; stop ids in the content count."""
    batch_size, length = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 10))
    values = st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length)
    flags = st.lists(st.booleans(), min_size=length, max_size=length).filter(any)
    ids = np.array(data.draw(st.lists(values, min_size=batch_size, max_size=batch_size)), np.int64)
    mask = np.array(data.draw(st.lists(flags, min_size=batch_size, max_size=batch_size)))
    job = Job(Prompt(ids, mask), stop_ids=data.draw(stops))
    expected = literal_loop(samplers.get("greedy"), job)
    assert_equal(generate(CountingEngine(), samplers.get("greedy"), job, lock_step=False), expected)
    assert_equal(generate(CountingEngine(), samplers.get("greedy"), job, lock_step=True), expected)


@pytest.mark.parametrize("length", [3, 8])
def test_pad_id_as_stop_id_generates_nothing(length: int) -> None:
    """Pad content that is a stop id stops the loop before its first step, one free column included, and the model is not called."""
    engine = CountingEngine()
    job = Job(padded([[3, 4], [5, 6]], length), stop_ids=(PAD,))
    result = generate(engine, samplers.get("greedy"), job)
    np.testing.assert_array_equal(result.ids, job.prompt.ids)
    assert result.mask.sum(axis=1).tolist() == [3, 3]
    assert engine.calls == []


def test_prompt_that_fills_the_buffer_comes_back() -> None:
    """Nothing is generated and nothing computed where there is no room."""
    engine = CountingEngine()
    result = generate(engine, samplers.get("greedy"), Job(padded([[3, 4, 5]], 3), stop_ids=(9,)))
    assert result.ids.tolist() == [[3, 4, 5]]
    assert result.mask.all()
    assert engine.calls == []


def test_stop_id_inside_the_prompt_does_not_stop() -> None:
    """Only generated tokens stop a row."""
    greedy = samplers.get("greedy")
    free = generate(CountingEngine(), greedy, Job(padded([[3, 4, 5]], 8))).ids[0]
    unused = next(token for token in range(1, VOCABULARY) if token not in free[3:].tolist())
    rows = [[3, unused, 5]]
    result = generate(CountingEngine(), greedy, Job(padded(rows, 5), stop_ids=(unused,)))
    assert (result.ids[0, 3:] != PAD).any()


def test_each_token_costs_one_step() -> None:
    """A prompt is one call, each further token one call over the running rows, and the last token is not fed."""
    engine = CountingEngine()
    generate(engine, samplers.get("greedy"), Job(padded([[1, 2, 3], [4]], 6)))
    assert engine.calls == [(4, 2), (2, 2), (2, 2), (1, 1), (1, 1)]


def test_visible_only_stops_computing() -> None:
    """Rows that are done cost nothing more where only text is wanted."""
    greedy = samplers.get("greedy")
    prompt = padded([[1, 2, 3], [4, 5]], 40)
    free = generate(CountingEngine(), greedy, Job(prompt)).ids
    stop_id = int(free[0, 3])  # row 0 stops with its first token
    whole, short = CountingEngine(), CountingEngine()
    generate(whole, greedy, Job(prompt, stop_ids=(stop_id,)))
    generate(short, greedy, Job(prompt, stop_ids=(stop_id,), visible_only=True))
    assert sum(tokens for tokens, _ in short.calls) < sum(tokens for tokens, _ in whole.calls)
    assert all(rows == 1 for _, rows in short.calls[1:])


def test_encoder_prompts_follow_their_rows() -> None:
    """Rows keep their own encoder prompt when finished rows are dropped."""
    prompt = padded([[1, 2, 3, 4, 5], [4], [7, 8]], 7)
    encoder_rows = [[9, 9], [8], [7, 6, 5]]
    job = Job(prompt, encoder=padded(encoder_rows, 4))
    expected = literal_loop(samplers.get("greedy"), job, encoder_rows)
    assert_equal(generate(CountingEngine(), samplers.get("greedy"), job), expected)
    without = literal_loop(samplers.get("greedy"), job)
    assert (without.ids != expected.ids).any()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_dtype_of_the_ids_is_kept(dtype: Any) -> None:
    """int32 in, int32 out; int64 in, int64 out."""
    assert generate(CountingEngine(), samplers.get("greedy"), Job(padded([[1]], 3, dtype))).ids.dtype == dtype


def test_steps_show_final_tokens() -> None:
    """With one row, what a step shows is what the result holds: a stream never takes a token back."""
    job = Job(padded([[1, 2]], 20), stop_ids=(11, 12, 13))
    loop = IndependentRows(CountingEngine(), samplers.get("greedy"), job)
    seen: list[list[int]] = []
    for _ in loop.steps():
        seen.append(loop.ids[0, : loop.columns[0]].tolist())
    result = loop.result().ids[0].tolist()
    assert seen and all(result[: len(part)] == part for part in seen)


def test_draws_name_their_place_in_the_whole_batch() -> None:
    """A row's draw is that of KerasHub's loop: its column's step, its row, and all rows of the batch, also after others have ended."""
    seen: list[tuple[int, int, int]] = []

    class Recorder(samplers.GreedySampler):
        def next_token(self, probabilities: Any, draw: Draw) -> int:
            seen.append((draw.step, draw.row, draw.batch_size))
            return super().next_token(probabilities, draw)

    generate(CountingEngine(), Recorder(), Job(padded([[1, 2, 3, 4], [5], [6, 7]], 6)))
    assert sorted(seen) == [
        (step, row, 3) for step, row in sorted([(s, 0) for s in (3, 4)] + [(s, 1) for s in range(5)] + [(s, 2) for s in range(1, 5)])
    ]
