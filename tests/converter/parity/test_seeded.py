"""The gate's rule for seeded draws: a draw within the bound of a step of the original's distribution may fall on its other side, no other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.converter.parity.cases import Case, Sizes, build_cases, seeded_cases
from kexport.converter.parity.gate import Expected, judge
from kexport.converter.parity.picks import SeededPick
from kexport.runtime.contract.errors import ParityError
from kexport.runtime.contract.manifest import Rng

VOCABULARY, LENGTH = 10, 12
RANDOM = {"class_name": "RandomSampler", "config": {"seed": 7}}
TOP_K = {"class_name": "TopKSampler", "config": {"k": 5, "seed": 7}}
PROMPTS = ((1, 2), (3, 4, 5))
BOUND = 1e-3  # logits run from 0 to 10
ROW, COLUMN = 0, 6  # where the constructed draw is
NEAR, FAR = 5e-5, 5e-3  # from the place where the draw falls on the step


def case_of(sampler: dict[str, Any], **others: Any) -> Case:
    """Two rows."""
    return Case("seeded", PROMPTS, LENGTH, sampler=sampler, **others)


def original(case: Case, seed: int = 0) -> tuple[Any, Any]:
    """Tokens and logits [2, 12, 10] of an original that draws as the case's sampler does."""
    logits = np.random.default_rng(seed).uniform(1, 9, (2, LENGTH, VOCABULARY)).astype(np.float32)
    logits[..., 0], logits[..., -1] = 0, 10
    return drawn(case, logits), logits


def drawn(case: Case, logits: Any) -> Any:
    """The tokens that the case's sampler draws from logits."""
    pick = SeededPick(case, Rng())
    tokens = np.zeros((len(case.prompts), LENGTH), np.int32)
    for row, prompt in enumerate(case.prompts):
        tokens[row, : len(prompt)] = prompt
        for column in range(len(prompt), LENGTH):
            tokens[row, column] = pick.token(logits[row, column - 1], row, column)
    return tokens


def at_a_step(case: Case, distance: float) -> tuple[Any, Any, Any]:
    """An original whose draw at (ROW, COLUMN) lies `distance` in front of a step, by the logits of the first half of the vocabulary; and the logits
    of an artifact for which it lies `NEAR` behind."""
    _, logits = original(case)
    pick, here = SeededPick(case, Rng()), logits[ROW, COLUMN - 1].copy()
    here[:] = 0
    here[[4, 5]] = 10, 10
    halves = np.where(np.arange(VOCABULARY) <= 4, 1, 0).astype(np.float32)

    def token(shift: float) -> int:
        return pick.token(here + np.float32(shift) * halves, ROW, COLUMN)

    low, high = -9.0, 9.0
    assert token(low) > 4 >= token(high)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if token(middle) <= 4 else (middle, high)
    logits[ROW, COLUMN - 1] = here + np.float32(high + distance) * halves
    ours = logits.copy()
    ours[ROW, COLUMN - 1] = here + np.float32(high - NEAR) * halves
    return drawn(case, logits), logits, ours


def verdict(case: Case, tokens: Any, logits: Any, our_tokens: Any, our_logits: Any) -> Any:
    """The gate's answer."""
    return judge([Expected(case, tokens, logits)], {"tokens:0": our_tokens, "logits:0": our_logits}, "toy", None, rng=Rng())


@pytest.mark.parametrize("sampler", [RANDOM, TOP_K], ids=["random", "top_k"])
def test_equal_draws_are_proven(sampler: dict[str, Any]) -> None:
    """All steps count, none is near; the certificate holds the sampler with its seed."""
    case = case_of(sampler)
    tokens, logits = original(case)
    certificate = verdict(case, tokens, logits, tokens, logits + np.float32(1e-6))
    assert (certificate.tokens_compared, certificate.tokens_equal, certificate.near_steps, certificate.near_ties) == (19, 19, 0, 0)
    assert certificate.cases[0].sampler == sampler and certificate.cases[0].smallest_gap > 0


def test_a_near_step_is_counted_and_the_comparison_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact's own run of that row went another way from there, which is left out; with the original's tokens fed all else is equal."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1 / 10)
    case = case_of(RANDOM)
    tokens, logits, ours = at_a_step(case, NEAR)
    assert drawn(case, ours)[ROW, COLUMN] != tokens[ROW, COLUMN]
    own = tokens.copy()
    own[ROW, COLUMN:] = (tokens[ROW, COLUMN:] + 1) % VOCABULARY
    certificate = verdict(case, tokens, logits, own, ours)
    assert (certificate.near_steps, certificate.near_ties, certificate.tokens_equal, certificate.tokens_compared) == (1, 0, 18, 19)
    wrong = ours.copy()
    wrong[ROW, COLUMN + 2] = np.roll(wrong[ROW, COLUMN + 2], 3)
    with pytest.raises(ParityError, match=f"row {ROW}, position {COLUMN + 3}"):
        verdict(case, tokens, logits, own, wrong)


def test_a_near_step_excuses_neither_earlier_tokens_nor_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `generate()` gave must be equal up to there, and in the other row to its end."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1.0)
    case = case_of(RANDOM)
    tokens, logits, ours = at_a_step(case, NEAR)
    for row, column in ((ROW, COLUMN - 1), (1 - ROW, LENGTH - 1)):
        own = tokens.copy()
        own[row, column] = (own[row, column] + 1) % VOCABULARY
        with pytest.raises(ParityError, match=rf"row {row}, position {column}: generate\(\) gives"):
            verdict(case, tokens, logits, own, ours)


def test_a_near_step_that_only_generate_saw_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps may round otherwise than those with tokens fed."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1 / 10)
    case = case_of(RANDOM)
    tokens, logits, ours = at_a_step(case, NEAR)
    assert verdict(case, tokens, logits, drawn(case, ours), logits).near_steps == 1


def test_one_near_step_among_few_is_too_many() -> None:
    """More than 1 in 200 steps is refused."""
    case = case_of(RANDOM)
    tokens, logits, ours = at_a_step(case, NEAR)
    with pytest.raises(ParityError, match="1 of 19 steps are near ties, or draws near a step") as refusal:
        verdict(case, tokens, logits, drawn(case, ours), ours)
    assert refusal.value.code == "KX303"


def test_a_draw_farther_from_the_step_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is 1e-3 here, and two of them are allowed; 5e-3 is a difference."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1.0)
    assert NEAR < 2 * BOUND < FAR
    case = case_of(RANDOM)
    tokens, logits, ours = at_a_step(case, FAR)
    with pytest.raises(ParityError, match=rf"row {ROW}, position {COLUMN}: the original draws token \d \(0\.005 from another outcome, in logits\)") as refusal:
        verdict(case, tokens, logits, drawn(case, ours), ours)
    assert refusal.value.code == "KX302"


def test_another_seed_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that agree do not make up for draws that do not."""
    monkeypatch.setattr("kexport.converter.parity.gate.MOST_NEAR_TIES", 1.0)
    case, other = case_of(RANDOM), case_of({"class_name": "RandomSampler", "config": {"seed": 8}})
    tokens, logits = original(case)
    with pytest.raises(ParityError, match=r"generate\(\) gives"):
        verdict(case, tokens, logits, drawn(other, logits), logits)


def test_rows_of_split_prompts_draw_from_their_first_new_token_on() -> None:
    """There each row's first new token is the first step; otherwise the column behind the shortest prompt is."""
    whole, split = case_of(RANDOM), case_of(RANDOM, split=True)
    tokens, logits = original(split)
    assert drawn(whole, logits)[0].tolist() == tokens[0].tolist()
    assert drawn(whole, logits)[1].tolist() != tokens[1].tolist()
    assert verdict(split, tokens, logits, tokens, logits).verdict == "proven"


@pytest.mark.parametrize("vocabulary", [4, 50_000])
@pytest.mark.parametrize("capacity", [4, 16, 64])
def test_the_seeded_cases_fit_the_artifact(capacity: int, vocabulary: int) -> None:
    """A ragged batch with KerasHub's default for top_k and one row over the whole vocabulary; both seeded, within capacity and vocabulary."""
    sizes = Sizes(vocabulary, capacity, 0, 1000, False, frozenset({0}))
    batch, row = seeded_cases(build_cases(sizes), sizes)
    assert batch.sampler["config"]["k"] == min(5, vocabulary) and len(batch.prompts) == 3 and len(row.prompts) == 1
    for case in (batch, row):
        assert max(map(len, case.prompts)) < case.max_length <= capacity and isinstance(case.sampler["config"]["seed"], int)
