"""The gate's rule: equal tokens, near ties counted, everything else refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.converter.parity.cases import Case, Sizes, build_cases, stop_case
from kexport.converter.parity.gate import Expected, judge
from kexport.runtime.contract.errors import ParityError

VOCABULARY = 10
CASE = Case("toy", ((1, 2), (3, 4, 5)), 8)
SPREAD = 10.0  # logits run from 0 to 10: the float32 bound is 1e-3


def original(seed: int = 0) -> tuple[Any, Any]:
    """Tokens [2, 8] and logits [2, 8, 10] of an original whose best logit is 10, ahead of the second by 4."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (2, 8)).astype(np.int32)
    for row, prompt in enumerate(CASE.prompts):
        tokens[row, : len(prompt)] = prompt
    logits = np.zeros((2, 8, VOCABULARY), np.float32)
    for row in range(2):
        for position in range(7):
            logits[row, position, (tokens[row, position + 1] + 1) % VOCABULARY] = SPREAD - 4
            logits[row, position, tokens[row, position + 1]] = SPREAD
    return tokens, logits


def verdict(tokens: Any, logits: Any, our_tokens: Any, our_logits: Any, **extra: Any) -> Any:
    """The gate's answer for one case."""
    return judge([Expected(CASE, tokens, logits)], {"tokens:0": our_tokens, "logits:0": our_logits}, "toy", None, **extra)


def test_equal_tokens_and_logits_are_proven() -> None:
    """All generated steps are counted, prompts are not."""
    tokens, logits = original()
    certificate = verdict(tokens, logits, tokens, logits + np.float32(1e-5))
    assert (certificate.verdict, certificate.tokens_compared, certificate.tokens_equal, certificate.near_ties) == ("proven", 11, 11, 0)
    assert certificate.max_logit_difference["decode"] == pytest.approx(1e-5, rel=0.1)
    assert certificate.cases[0].smallest_gap == pytest.approx(4)


def test_a_wrong_token_is_refused_with_row_position_and_both_gaps() -> None:
    """A clear second choice is no tie."""
    tokens, logits = original()
    ours = logits.copy()
    ours[1, 5] = np.roll(ours[1, 5], 1)
    with pytest.raises(ParityError, match=r"row 1, position 6.*ahead of its second choice by 4.*ahead by 4") as refusal:
        verdict(tokens, logits, tokens, ours)
    assert refusal.value.code == "KX302"


def near_tie(gap: float) -> tuple[Any, Any, Any]:
    """An original whose choice at row 0, position 4 is ahead by `gap` only, and an artifact that chose the other."""
    tokens, logits = original()
    first, second = tokens[0, 5], (tokens[0, 5] + 1) % VOCABULARY
    logits[0, 4, second] = logits[0, 4, first] - gap
    ours = logits.copy()
    ours[0, 4, second] = ours[0, 4, first] + gap / 10
    return tokens, logits, ours


def test_one_near_tie_among_few_steps_is_too_many() -> None:
    """More than 1 in 200 steps is refused, even where each is within the bound."""
    tokens, logits, ours = near_tie(5e-4)
    with pytest.raises(ParityError, match="1 of 11 steps are near ties") as refusal:
        verdict(tokens, logits, tokens, ours)
    assert refusal.value.code == "KX303"


def test_a_near_tie_among_many_steps_is_accepted_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison goes on after it with the original's tokens."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1 / 10)
    tokens, logits, ours = near_tie(5e-4)
    certificate = verdict(tokens, logits, tokens, ours)
    assert (certificate.near_ties, certificate.tokens_equal, certificate.tokens_compared) == (1, 10, 11)


def test_a_gap_beyond_two_bounds_is_no_near_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is 1e-3 here; 3e-3 is a difference."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1.0)
    tokens, logits, ours = near_tie(3e-3)
    with pytest.raises(ParityError, match="row 0, position 5"):
        verdict(tokens, logits, tokens, ours)


def test_logits_beyond_the_bound_are_refused_unless_rounding_explains_them() -> None:
    """Equal tokens with logits 0.01 apart need exact arithmetic's word, which goes into the certificate."""
    tokens, logits = original()
    ours = logits.copy()
    ours[0, 3, 0] -= 0.01
    with pytest.raises(ParityError, match=r"logits differ by 0\.01, more than 0\.001"):
        verdict(tokens, logits, tokens, ours)
    with pytest.raises(ParityError):
        verdict(tokens, logits, tokens, ours, explain=lambda answer, row, artifact: "")
    assert verdict(tokens, logits, tokens, ours, explain=lambda answer, row, artifact: f"row {row}").warnings == ("row 0",)


def test_a_wrong_token_is_never_explained_away() -> None:
    """Exact arithmetic is asked about logits only."""
    tokens, logits = original()
    ours = logits.copy()
    ours[1, 5] = np.roll(ours[1, 5], 1)
    with pytest.raises(ParityError, match="row 1, position 6"):
        verdict(tokens, logits, tokens, ours, explain=lambda answer, row, artifact: "rounding")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    """NaN compares false with every bound; it must not pass for that."""
    tokens, logits = original()
    ours = logits.copy()
    ours[0, 2, 7] = number
    with pytest.raises(ParityError):
        verdict(tokens, logits, tokens, ours)


def test_generate_must_agree_even_where_forced_logits_do() -> None:
    """A loop that stops wrongly is seen though every logit is right."""
    tokens, logits = original()
    ours = tokens.copy()
    ours[1, 7] = 0 if tokens[1, 7] else 1
    with pytest.raises(ParityError, match=r"generate\(\) gives"):
        verdict(tokens, logits, ours, logits)


def test_texts_are_compared_and_not_counted_as_tokens() -> None:
    """Strings must be equal; the token count is of ids."""
    tokens, logits = original()
    texts = Case("text", (), 20, texts=("a", "b"))
    results = {"tokens:0": tokens, "logits:0": logits, "texts:1": np.array(["a!", "b!"])}
    answers = [Expected(CASE, tokens, logits), Expected(texts, texts=["a!", "b!"])]
    assert judge(answers, results, "toy", None).tokens_compared == 11
    answers[1] = Expected(texts, texts=["a!", "b?"])
    with pytest.raises(ParityError, match=r"for 'b' the original gives 'b\?', the artifact 'b!'"):
        judge(answers, results, "toy", None)


@pytest.mark.parametrize("capacity", [4, 16, 64, 4096])
@pytest.mark.parametrize("seq2seq", [False, True])
def test_cases_fit_the_artifact(capacity: int, seq2seq: bool) -> None:
    """Whatever the capacity, prompts leave room, avoid forbidden ids, and no row is longer than what is served."""
    sizes = Sizes(VOCABULARY, capacity, 8 if seq2seq else 0, 1000, seq2seq, frozenset({0, 3}))
    for case in build_cases(sizes):
        assert case.max_length <= capacity
        assert all(0 < len(row) < case.max_length and not {0, 3} & set(row) for row in case.prompts)
        assert bool(case.encoder) == seq2seq and all(len(row) <= 8 for row in case.encoder)
    names = [case.name for case in build_cases(sizes)]
    assert ("full cache" in names) == (capacity in (64, 4096))


def test_the_stop_case_stops_in_the_middle() -> None:
    """Its stop id is generated late in the first row, and there for the first time."""
    tokens, _ = original()
    tokens[0, 2:] = [7, 7, 9, 8, 6, 5]
    stopped = stop_case(CASE, tokens)
    assert stopped is not None and stopped.stop_token_ids == (8,)
    tokens[0, 2:] = 7
    assert stop_case(CASE, tokens) is None
