"""Samplers of somebody's own: what they are given, what they may answer, and that a seed repeats them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.generation import Job, generate
from kexport.runtime.prompts import Prompt

from ..byte_tokenizer import PAD_ID, START_ID
from ..counting_engine import VOCABULARY, CountingEngine, logits_of
from ..gqa_model import write_decoder
from ..test_generation import padded
from ..test_language_model import SIZES, add_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "samplers.md"


class Recorder:
    """Takes the second best token; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, int, Any]] = []

    def next(self, logits: Any, step: int, rng: Any) -> Any:
        self.given.append((logits.copy(), step, rng))
        logits[np.arange(len(logits)), logits.argmax(axis=1)] = -np.inf  # its own copy
        return logits.argmax(axis=1)


class Draws:
    """Any token, by its probability."""

    def __init__(self, seed: Any = None) -> None:
        self.seed = seed

    def next(self, logits: Any, step: int, rng: Any) -> Any:
        return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


class Answers:
    """Whatever it is told to answer."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self._answer = answer

    def next(self, logits: Any, step: int, rng: Any) -> Any:
        return self._answer(len(logits))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal artifact with a tokenizer."""
    path = tmp_path_factory.mktemp("causal")
    add_tokenizer(path, write_decoder(path, SIZES), {"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=20)})
    return path


def run(sampler: Any, prompt: Prompt) -> Any:
    return generate(CountingEngine(), samplers.get(sampler), Job(prompt)).ids


def test_it_is_given_logits_steps_and_a_generator() -> None:
    """float32 logits of all rows, row b that of prompt b, at every step from the shortest prompt on; prompt tokens stay."""
    recorder = Recorder()
    ids = run(recorder, padded([[1, 2, 3, 4], [5, 6]], 7))
    assert ids[0, :4].tolist() == [1, 2, 3, 4]
    assert [step for _, step, _ in recorder.given] == [0, 1, 2, 3, 4]
    for logits, step, rng in recorder.given:
        assert (logits.dtype, logits.shape) == (np.float32, (2, VOCABULARY))
        assert isinstance(rng, np.random.Generator) and rng is recorder.given[0][2]
        for row in range(2):
            np.testing.assert_array_equal(logits[row], logits_of(ids[row, : 2 + step].tolist()))
    for row, start in ((0, 4), (1, 2)):
        for column in range(start, 7):
            assert ids[row, column] == np.argsort(logits_of(ids[row, :column].tolist()))[-2]


def test_one_row_alone_is_the_same_in_both_schedules() -> None:
    """What a stream runs gives the tokens, the steps and the draws of the lock-step loop."""
    for make in (Recorder, lambda: Draws(3)):
        first, second = samplers.get(make()), samplers.get(make())
        job = Job(padded([[1, 2, 3]], 12))
        for _ in range(2):
            together = generate(CountingEngine(), first, job, lock_step=True).ids
            np.testing.assert_array_equal(generate(CountingEngine(), second, job, lock_step=False).ids, together)


def test_a_seed_repeats_the_draws() -> None:
    """The same seed gives the same two calls, which differ from each other; without a seed two samplers differ."""
    prompt = padded([[1, 2], [3]], 30)

    def two_calls(seed: int | None) -> list[Any]:
        sampler = samplers.get(Draws(seed))
        return [generate(CountingEngine(), sampler, Job(prompt)).ids.tolist() for _ in range(2)]

    assert two_calls(7) == two_calls(7) != two_calls(8)
    assert two_calls(7)[0] != two_calls(7)[1]
    assert two_calls(None) != two_calls(None)
    for wrong in (-1, 1.5, True, "7"):
        with pytest.raises(InvalidInputError, match="KX532"):
            samplers.get(Draws(wrong))


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: 3,
        lambda rows: [[3]] * rows,
        lambda rows: [3] * (rows + 1),
        lambda rows: [3.0] * rows,
        lambda rows: None,
        lambda rows: [-1] * rows,
        lambda rows: [VOCABULARY] * rows,
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_answers_that_are_no_ids_are_refused(answer: Any, rows: int) -> None:
    """Wrong shapes and types, and ids outside the vocabulary, with the class's name."""
    with pytest.raises(InvalidInputError, match=r"KX535.*Answers\.next"):
        run(Answers(answer), padded([[1, 2]] * rows, 4))


def test_a_keras_class_of_somebody_elses_is_shown_the_way() -> None:
    """A subclass of KerasHub's sampler cannot leave Keras; the hint names what can be written instead. One that has `next` is taken."""
    kind = type("Theirs", (), {"get_config": lambda self: {}, "__module__": "their.samplers", "get_next_token": lambda self, p: p})
    with pytest.raises(UnsupportedError, match="KX531") as caught:
        samplers.get(kind())
    assert "next(logits, step, rng)" in caught.value.hint and "docs/samplers.md" in caught.value.hint
    kind.next = lambda self, logits, step, rng: logits.argmax(axis=1)  # type: ignore[attr-defined]
    assert isinstance(samplers.get(kind()), samplers.CustomSampler)
    with pytest.raises(InvalidInputError, match="KX530"):
        samplers.get(Recorder)  # a class, not an object


def test_the_page_is_true(directory: Path) -> None:
    """The example of docs/samplers.md runs as it stands, repeats itself, and streams in pieces."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with runtime.load(directory, threads=1) as lm:
        texts = []
        for _ in range(2):
            names = {"lm": lm, "runtime": runtime}
            for block in blocks:
                exec(block, names)
            texts.append(names["text"])
        assert texts[0] == texts[1]
        lm.compile(sampler=names["MinP"](share=0.2, seed=7))  # type: ignore[operator]
        pieces = list(lm.stream("Once upon a time", stop_token_ids=None))
        lm.compile(sampler=names["MinP"](share=0.2, seed=7))  # type: ignore[operator]
        assert "".join(pieces) == lm.generate("Once upon a time", stop_token_ids=None)
        assert lm.sampler.get_config() == {"sampler": "MinP", "seed": 7}


class NotANumber(CountingEngine):
    """A model with a broken weight."""

    def extend(self, cache: Any, tokens: Any, lengths: Any = None) -> Any:
        logits = super().extend(cache, tokens, lengths)
        logits[-1, 3] = np.nan
        return logits


@pytest.mark.parametrize("sampler", ["greedy", "random", "top_k", "top_p", "beam", Recorder()], ids=lambda sampler: sampler if isinstance(sampler, str) else "custom")
@pytest.mark.parametrize("rows", [1, 2])
def test_logits_that_are_not_numbers_are_refused_by_all(sampler: Any, rows: int) -> None:
    """One NaN in one row is enough, whatever the schedule."""
    with pytest.raises(InvalidInputError, match="KX533"):
        generate(NotANumber(), samplers.get(sampler), Job(padded([[1, 2]] * rows, 6)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_no_softmax_can_use(value: float) -> None:
    """NaN, +infinity, and a row of nothing but -infinity; some tokens at -infinity are masked tokens and fine."""
    greedy = samplers.get("greedy")
    with pytest.raises(InvalidInputError, match="KX533"):
        greedy.probabilities(np.full((1, 4), value, np.float32))
    assert greedy.probabilities(np.array([[0, -np.inf]], np.float32)).tolist() == [[1.0, 0.0]]
