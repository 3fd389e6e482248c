"""Tokens and logits of one case against the original's, with the near-tie rule.

At every step with the original's tokens fed, the token that the case's sampler picks from the artifact's logits must be the original's. It may differ
only where the original's own pick is nearer to another one than the rule's bound (picks.py): a near tie of a greedy choice, a near step of a seeded
draw; such steps are counted. More than one in 200, a larger gap, or a logit difference beyond the bound: not equal. Behind such a step the
comparison goes on with the original's tokens fed. What the artifact's own `generate()` gave must agree up to a row's first such step; its later
tokens follow from another past and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case
from kexport.converter.parity.picks import Pick, pick_of
from kexport.converter.parity.tolerances import LOGIT_BOUND, NEAR_TIE_FACTOR
from kexport.runtime.contract.manifest import ParityCase, Rng
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a case fails: the row and position, both tokens, both top-2 gaps, in words.

    `only_logits`: every token is the original's, but logits differ by more than the bound.
    """

    case: str
    text: str
    row: int = 0
    only_logits: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """One case's record for the certificate, and its first failure if there is one."""

    record: ParityCase
    difference: Difference | None


def compare(
    case: Case, expected: NDArray[Any], tokens: NDArray[Any], oracle: NDArray[Any] | None, artifact: NDArray[Any] | None, rng: Rng | None = None
) -> Compared:
    """Compare one id-mode case. `oracle` and `artifact`: logits along `expected` [rows, length, vocabulary], or None (tokens only). `rng`: the conditions
    of seeded draws."""
    starts = [len(prompt) for prompt in case.prompts]
    compared = sum(expected.shape[1] - start for start in starts)
    if oracle is None or artifact is None:
        equal = sum(int((expected[row, start:] == tokens[row, start:]).sum()) for row, start in enumerate(starts))
        return Compared(_record(case, expected, compared, equal), _token_difference(case, expected, tokens, _first_differences(expected, tokens)))
    return _compare_steps(case, expected, tokens, oracle, artifact, pick_of(case, rng or Rng()))


def _compare_steps(
    case: Case, expected: NDArray[Any], tokens: NDArray[Any], oracle: NDArray[Any], artifact: NDArray[Any], pick: Pick
) -> Compared:
    near, largest, share, smallest_gap, equal, compared = set[tuple[int, int]](), 0.0, 0.0, np.inf, 0, 0
    own = _first_differences(expected, tokens)
    wrong_token: Difference | None = None
    wide_logits: Difference | None = None
    for row, prompt in enumerate(case.prompts):
        for column in range(len(prompt), expected.shape[1]):
            ours, theirs, token = artifact[row, column - 1], oracle[row, column - 1], int(expected[row, column])
            spread = float(theirs.max() - theirs.min())
            bound = LOGIT_BOUND["float32"] * spread
            difference, gap = float(np.abs(ours - theirs).max()), pick.gap(theirs, row, column)
            largest, smallest_gap, compared = max(largest, difference), min(smallest_gap, gap), compared + 1
            share = max(share, difference / spread if spread else 0.0)
            same = pick.token(ours, row, column) == token
            equal += same
            is_near = gap <= NEAR_TIE_FACTOR * bound
            if is_near and (not same or (row, column) in own):
                near.add((row, column))
            elif not same and wrong_token is None:
                wrong_token = Difference(case.name, f"row {row}, position {column}: {pick.words(token, ours, theirs, row, column)}", row)
            elif same and not difference <= bound and wide_logits is None:
                text = f"row {row}, position {column}: logits differ by {difference:.3g}, more than {bound:.3g}"
                wide_logits = Difference(case.name, text, row, only_logits=True)
    if wrong_token is None and not own <= near:
        wrong_token = _token_difference(case, expected, tokens, own - near)
    failure = wrong_token or wide_logits
    smallest = float(smallest_gap) if np.isfinite(smallest_gap) else 0.0
    figures = {pick.count_name: len(near), "max_logit_difference": largest, "max_logit_share": share, "smallest_gap": smallest}
    return Compared(_record(case, expected, compared, equal, **figures), failure)


def _first_differences(expected: NDArray[Any], tokens: NDArray[Any]) -> set[tuple[int, int]]:
    """Row and column of the first difference of each row that has one; of tables of different sizes a place in none."""
    if tokens.shape != expected.shape:
        return {(-1, -1)}
    different = tokens != expected
    return {(int(row), int(different[row].argmax())) for row in np.flatnonzero(different.any(axis=1))}


def _token_difference(case: Case, expected: NDArray[Any], tokens: NDArray[Any], places: set[tuple[int, int]]) -> Difference | None:
    """The first of the places at which `generate()` gave another token."""
    if not places:
        return None
    if tokens.shape != expected.shape:
        return Difference(case.name, f"the original gives {expected.shape} tokens, the artifact {tokens.shape}")
    row, position = min(places)
    return Difference(case.name, f"row {row}, position {position}: generate() gives {int(expected[row, position])}, the artifact {int(tokens[row, position])}")


def _record(case: Case, expected: NDArray[Any], compared: int, equal: int, **figures: Any) -> ParityCase:
    """The case's record; `figures`: what comparing logits gave."""
    inputs = {"prompts": [list(row) for row in case.prompts]}
    if case.encoder:
        inputs["encoder"] = [list(row) for row in case.encoder]
    if case.chunks:
        inputs["chunks"] = [list(case.chunks)]
    if case.images:
        inputs["images"] = [list(row) for row in case.images]
    return ParityCase(
        name=case.name,
        inputs=inputs,
        expected=expected.tolist(),
        max_length=case.max_length,
        stop_token_ids=case.stop_token_ids,
        sampler=case.sampler,
        tokens_compared=compared,
        tokens_equal=equal,
        **figures,
    )


def compare_texts(case: Case, expected: list[str], texts: list[str]) -> Compared:
    """Compare one text-mode case: the strings must be equal."""
    record = ParityCase(
        name=case.name, inputs={"images": [list(row) for row in case.images]} if case.images else {}, expected=[], max_length=case.max_length, texts=list(case.texts), expected_texts=expected,
        tokens_compared=len(expected), tokens_equal=sum(a == b for a, b in zip(expected, texts, strict=True)),
    )  # fmt: skip
    wrong = next((i for i, (a, b) in enumerate(zip(expected, texts, strict=True)) if a != b), None)
    if wrong is None:
        return Compared(record, None)
    return Compared(record, Difference(case.name, f"for {case.texts[wrong]!r} the original gives {expected[wrong]!r}, the artifact {texts[wrong]!r}"))
