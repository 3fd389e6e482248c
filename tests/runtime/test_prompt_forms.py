"""Split prompts without a model: what they are cut into, what the loop feeds, what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.generation import Job, generate
from kexport.runtime.prompt_forms import FORMS, first_columns, split
from kexport.runtime.prompts import Prompt, strip_prompt

from .counting_engine import VOCABULARY, CountingEngine, logits_of

ROWS = ([5, 6, 7], [8], [9, 3, 4, 2, 1, 11])
WIDTH = 6
NEW = 7
FORM = FORMS["split"]


def greedy(row: list[int], count: int) -> list[int]:
    """The tokens that follow what the model saw of a row."""
    seen = row if len(row) > 1 else [0, *row]
    for _ in range(count):
        seen = [*seen, int(logits_of(seen).argmax())]
    return seen[-count:]


def arrays(**changed: Any) -> dict[str, Any]:
    """ROWS as the four arrays, some of them replaced."""
    return FORM.prompt_arrays(split(ROWS, NEW, WIDTH)) | changed


def test_prompts_are_split_in_front_of_their_last_token() -> None:
    """The rest is padded on the left; a prompt of one token leaves the id 0, which counts."""
    prompt = split(ROWS, 2, WIDTH)
    assert prompt.prefix is not None
    assert prompt.prefix.ids.tolist() == [[0, 0, 0, 0, 5, 6], [0] * 6, [0, 9, 3, 4, 2, 1]]
    assert prompt.prefix.mask.sum(axis=1).tolist() == [2, 1, 5] and prompt.prefix.mask[:, -1].all()
    assert prompt.ids.tolist() == [[7, 0, 0], [8, 0, 0], [11, 0, 0]]
    assert prompt.mask.tolist() == [[True, False, False]] * 3
    assert (prompt.start, prompt.longest) == (1, 8)


@pytest.mark.parametrize("lock_step", [False, True])
def test_the_model_sees_each_row_alone(lock_step: bool) -> None:
    """No padding, every token once, whatever the schedule."""
    engine, job = CountingEngine(), Job(split(ROWS, NEW, WIDTH))
    generated = FORM.joined(generate(engine, samplers.get("greedy"), job, lock_step=lock_step), job.prompt, None)
    assert generated.ids.shape == (3, WIDTH + 1 + NEW) and generated.mask.all()
    for row, ids, first in zip(ROWS, generated.ids.tolist(), first_columns(ROWS, WIDTH), strict=True):
        assert ids[first:] == [*row, *greedy(row, NEW)]
    assert sum(tokens for tokens, _ in engine.calls) == sum(max(len(row), 2) for row in ROWS) + 3 * (NEW - 1)


def test_holes_are_fed_as_padding() -> None:
    """The model takes the id 0 for padding: that is what stands in a hole of the mask; nothing stands in front of the first token."""
    ids = np.array([[7, 7, 5, 6, 9, 7]])
    prompt = FORM.read(
        {"token_ids": ids, "input_padding_mask": [[0, 0, 1, 0, 1, 0]], "predict_token_ids": [[8, 0]], "padding_mask": [[1, 0]]},
        vocabulary_size=VOCABULARY, capacity=0,
    )  # fmt: skip
    tokens, lengths = prompt.first_tokens(prompt.ids, np.array([0]), np.array([1]))
    assert tokens.tolist() == [[5, 0, 9, 0, 8]] and lengths.tolist() == [5]


def test_the_mask_ends_behind_the_first_stop() -> None:
    """A stop id in the prompt does not count, padding in front of it does where 0 stops."""
    tokens = greedy(list(ROWS[0]), NEW)
    job = Job(split(ROWS[:1], NEW, WIDTH), stop_ids=(6, tokens[3]))
    generated = FORM.joined(generate(CountingEngine(), samplers.get("greedy"), job), job.prompt, job.stop_ids)
    assert generated.mask.sum() == WIDTH + 1 + tokens.index(tokens[3]) + 1
    assert FORM.joined(generated_nothing(job.prompt), job.prompt, (0,)).mask.sum() == 1
    assert FORM.opening(job.prompt, (0,)) == [0] and FORM.opening(job.prompt, (5,)) == [0, 0, 0, 0, 5, 6]


def generated_nothing(prompt: Prompt) -> Any:
    """The buffer as it was."""
    from kexport.runtime.generation import Generated

    return Generated(prompt.ids, prompt.mask)


def test_stripping_leaves_the_new_tokens() -> None:
    """Rolled as KerasHub rolls: new tokens first, one column of the front last and hidden."""
    job = Job(split(ROWS, NEW, WIDTH))
    generated = FORM.joined(generate(CountingEngine(), samplers.get("greedy"), job), job.prompt, None)
    ids, mask = strip_prompt(generated.ids, generated.mask, job.prompt.mask)
    assert ids[:, :-1].tolist() == [greedy(list(row), NEW) for row in ROWS] and ids[:, -1].tolist() == [0, 0, 0]
    assert mask[:, :-1].all() and not mask[:, -1].any()


@pytest.mark.parametrize(
    ("code", "words", "changed"),
    [
        ("KX520", "has no `predict_token_ids`", {"predict_token_ids": None}),
        ("KX520", "`predict_token_ids` has 2 rows, `token_ids` 3", {"predict_token_ids": np.ones((2, 3), int), "padding_mask": np.ones((2, 3))}),
        ("KX521", "row 1 of `token_ids` has no prompt token", {"input_padding_mask": np.array([[1] * 6, [0] * 6, [1] * 6])}),
        ("KX522", "row 0 of `token_ids` holds the id 0 as a token", {"input_padding_mask": np.ones((3, 6), bool)}),
        ("KX522", "`predict_token_ids` holds the id 40", {"predict_token_ids": np.full((3, 8), VOCABULARY)}),
        ("KX523", "prompt and new tokens have 13 tokens; this artifact serves up to 12", {}),
    ],
)
def test_what_is_no_split_prompt_is_refused(code: str, words: str, changed: dict[str, Any]) -> None:
    """Arrays that are missing, do not fit, or hold what the model cannot be told."""
    inputs = {name: array for name, array in arrays(**changed).items() if array is not None}
    with pytest.raises(InvalidInputError, match=words) as raised:
        FORM.read(inputs, vocabulary_size=VOCABULARY, capacity=12)
    assert raised.value.code == code


def test_lengths_count_new_tokens() -> None:
    """There is no default, and none is 0."""
    assert (FORM.length(0, 9), FORM.length(3, 9), FORM.length_for(5, 3)) == (0, 3, 3)
    whole = FORMS["whole"]
    assert (whole.length(0, 9), whole.length(None, 9), whole.length_for(5, 3)) == (9, 9, 8)
    for form, wrong in ((FORM, None), (FORM, -1), (FORM, 1.5), (whole, -1), (whole, True)):
        with pytest.raises(InvalidInputError) as raised:
            form.length(wrong, 9)
        assert raised.value.code == "KX527"
