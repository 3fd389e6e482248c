"""Tokens and logits of one case against the original's, with the near-tie rule.

At every step with the original's tokens fed, the artifact's best token must be the original's. It may differ only where the original's own
best two logits are closer than the rule's bound; such steps are counted. More than one in 200, a larger gap, or a logit difference
beyond the bound: not equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case
from kexport.converter.parity.tolerances import LOGIT_BOUND, NEAR_TIE_FACTOR
from kexport.runtime.contract.manifest import ParityCase
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


def top_two_gap(logits: NDArray[Any]) -> float:
    """The distance between the two largest numbers of the last axis."""
    two = np.partition(logits, -2)[-2:]
    return float(two[1] - two[0])


def compare(case: Case, expected: NDArray[Any], tokens: NDArray[Any], oracle: NDArray[Any] | None, artifact: NDArray[Any] | None) -> Compared:
    """Compare one id-mode case. `oracle` and `artifact`: logits along `expected` [rows, length, vocabulary], or None (tokens only)."""
    starts = [len(prompt) for prompt in case.prompts]
    compared = sum(expected.shape[1] - start for start in starts)
    if oracle is None or artifact is None:
        equal = sum(int((expected[row, start:] == tokens[row, start:]).sum()) for row, start in enumerate(starts))
        return Compared(_record(case, expected, compared, equal), _token_difference(case, expected, tokens))
    return _compare_steps(case, expected, tokens, oracle, artifact, starts)


def _compare_steps(
    case: Case, expected: NDArray[Any], tokens: NDArray[Any], oracle: NDArray[Any], artifact: NDArray[Any], starts: list[int]
) -> Compared:
    near_ties, largest, share, smallest_gap, equal, compared = 0, 0.0, 0.0, np.inf, 0, 0
    wrong_token: Difference | None = None
    wide_logits: Difference | None = None
    for row, start in enumerate(starts):
        for position in range(start - 1, expected.shape[1] - 1):
            ours, theirs, token = artifact[row, position], oracle[row, position], int(expected[row, position + 1])
            spread = float(theirs.max() - theirs.min())
            bound = LOGIT_BOUND["float32"] * spread
            difference, gap = float(np.abs(ours - theirs).max()), top_two_gap(theirs)
            largest, smallest_gap, compared = max(largest, difference), min(smallest_gap, gap), compared + 1
            share = max(share, difference / spread if spread else 0.0)
            same = int(ours.argmax()) == token
            equal += same
            if not same and gap <= NEAR_TIE_FACTOR * bound:
                near_ties += 1
            elif not same and wrong_token is None:
                wrong_token = Difference(case.name, _words(row, position + 1, token, ours, theirs, gap, difference, bound), row)
            elif same and not difference <= bound and wide_logits is None:
                wide_logits = Difference(case.name, _words(row, position + 1, token, ours, theirs, gap, difference, bound), row, only_logits=True)
    if wrong_token is None and near_ties == 0:
        wrong_token = _token_difference(case, expected, tokens)
    failure = wrong_token or wide_logits
    figures = {"near_ties": near_ties, "max_logit_difference": largest, "max_logit_share": share, "smallest_gap": float(smallest_gap)}
    return Compared(_record(case, expected, compared, equal, **figures), failure)


def _words(row: int, position: int, token: int, ours: NDArray[Any], theirs: NDArray[Any], gap: float, difference: float, bound: float) -> str:
    if int(ours.argmax()) != token:
        return (
            f"row {row}, position {position}: the original gives token {token} (ahead of its second choice by {gap:.3g}), "
            f"the artifact {int(ours.argmax())} (ahead by {top_two_gap(ours):.3g})"
        )
    return f"row {row}, position {position}: logits differ by {difference:.3g}, more than {bound:.3g}"


def _token_difference(case: Case, expected: NDArray[Any], tokens: NDArray[Any]) -> Difference | None:
    if tokens.shape == expected.shape and (tokens == expected).all():
        return None
    if tokens.shape != expected.shape:
        return Difference(case.name, f"the original gives {expected.shape} tokens, the artifact {tokens.shape}")
    row, position = (int(index) for index in np.argwhere(tokens != expected)[0])
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
