"""The cases of the parity gate where prompts are split: what is fed fits the artifact, and what comes back is told apart row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.converter.parity.cases import SPLIT_PROMPT, Case, Sizes, build_cases, generate_inputs, generated_rows, one_token_case
from kexport.runtime.prompt_forms import FORMS


def sizes(capacity: int, **changed: Any) -> Sizes:
    """A small model that splits prompts."""
    given = {"vocabulary": 50, "encoder_capacity": 0, "parameters": 1000, "seq2seq": False, "forbidden": frozenset({0}), "split": True}
    return Sizes(capacity=capacity, **given | changed)


@pytest.mark.parametrize("capacity", [12, 20, 30, 48, 2048])
def test_split_cases_fit_the_artifact(capacity: int) -> None:
    """All rows get as many new tokens as the shortest prompt leaves room for; the longest one must hold them, too."""
    cases = build_cases(sizes(capacity))
    assert [case.name for case in cases[:3]] == ["ragged batch", "one row", "prompt in pieces"]
    for case in (*cases, one_token_case(cases[0], sizes(capacity))):
        assert case is not None and all(0 < len(prompt) < case.max_length and 0 not in prompt for prompt in case.prompts)
        FORMS["split"].read(generate_inputs(case, 0, "split"), vocabulary_size=50, capacity=capacity)


def test_the_long_case_is_new_tokens() -> None:
    """KerasHub compiles its prefill of split prompts token by token, so that a long prompt is out of reach; others fill the cache with one."""
    split, whole = build_cases(sizes(2048))[-1], build_cases(sizes(2048, split=False))[-1]
    assert len(split.prompts[0]) == SPLIT_PROMPT and split.max_length > 4 * SPLIT_PROMPT
    assert len(whole.prompts[0]) > whole.max_length / 2


def test_rows_are_cut_out_of_the_result() -> None:
    """Each begins behind its own padding, and all have one length."""
    case = Case("ragged", ((5, 6, 7), (8,), (9, 3, 4, 2)), 9)
    inputs = generate_inputs(case, 0, "split")
    assert inputs["predict_token_ids"].shape == (3, 9)
    table = np.concatenate([inputs["token_ids"], inputs["predict_token_ids"]], axis=1)
    table[:, -8:] = np.arange(10, 18)
    assert generated_rows(case, {"token_ids": table}, "split").tolist() == [
        [5, 6, 7, 10, 11, 12, 13, 14, 15],
        [8, 10, 11, 12, 13, 14, 15, 16, 17],
        [9, 3, 4, 2, 10, 11, 12, 13, 14],
    ]
