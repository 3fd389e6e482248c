"""Contrastive search over a toy model whose hidden states are known: the choice by hand, and bad arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError, KexportError
from kexport.runtime.contract.manifest import Rng

VOCABULARY, WIDTH, LENGTH = 8, 4, 9


class Toy:
    """Logits and hidden states are functions of the last token alone. `rows`: what each row holds."""

    rng = Rng()

    def __init__(self, prompts: Any) -> None:
        generator = np.random.default_rng(3)
        self.logits = (generator.standard_normal((VOCABULARY, VOCABULARY)) * 2).astype(np.float32)
        self.hidden = generator.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
        self.rows = [list(row) for row in prompts]

    def step_with_hidden_states(self, tokens: Any) -> tuple[Any, Any]:
        """Append."""
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        return self.logits[tokens], self.hidden[tokens]

    def prompt_hidden_states(self) -> Any:
        """Of what was there before."""
        return self.hidden[np.array(self.rows)]

    def reorder(self, rows: Any) -> None:
        """Go on from other rows."""
        self.rows = [list(self.rows[row]) for row in rows]


def by_hand(toy: Toy, row: list[int], k: int, alpha: float, mask: Any, ids: Any) -> list[int]:
    """The definition, one row, no caches."""
    for index in range(len(row), LENGTH):
        powers = np.exp(toy.logits[row[-1]] - toy.logits[row[-1]].max())
        shares = powers / powers.sum()
        best, score = -1, -np.inf
        for candidate in np.argsort(-shares)[:k].tolist():
            token = int(ids[index]) if mask[index] else candidate
            a = toy.hidden[token]
            alike = max(float(toy.hidden[t] @ a / np.linalg.norm(a) / np.linalg.norm(toy.hidden[t])) for t in row)
            found = (1 - alpha) * float(shares[candidate]) - alpha * alike
            if found > score:
                best, score = token, found
        row = [*row, best]
    return row


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.6), (3, 0.6), (4, 0.0), (4, 0.9), (8, 0.5)])
def test_rows_are_those_of_the_definition(k: int, alpha: float) -> None:
    """Two rows, one of which has a prompt token where the other generates."""
    ids, mask = np.zeros((2, LENGTH), np.int32), np.zeros((2, LENGTH), bool)
    ids[0, :3], ids[1, :4] = [1, 2, 3], [4, 5, 6, 7]
    mask[0, :3] = mask[1, :4] = True
    toy = Toy(ids[:, :2])
    got = samplers.ContrastiveSampler(k=k, alpha=alpha).run(toy, ids.copy(), mask, 3, lambda ids, mask: False)
    wanted = [by_hand(Toy([[0]]), ids[row, :3].tolist(), k, alpha, mask[row], ids[row]) for row in range(2)]
    assert got.tolist() == wanted
    assert [row[:LENGTH] for row in toy.rows] == wanted


def test_it_stops_where_all_rows_are_done() -> None:
    """The columns behind stay as they were."""
    ids, mask = np.zeros((1, LENGTH), np.int32), np.zeros((1, LENGTH), bool)
    ids[0, :3], mask[0, :3] = [1, 2, 3], True
    got = samplers.ContrastiveSampler(k=2).run(Toy(ids[:, :2]), ids.copy(), mask, 3, lambda ids, mask: bool(ids[0, 4]))
    assert got[0, 3:5].all() and not got[0, 5:].any()


def test_names_and_configs() -> None:
    """KerasHub's name, class name, arguments and defaults."""
    assert samplers.get("contrastive").get_config() == {"temperature": 1.0, "k": 5, "alpha": 0.6}
    made = samplers.get({"class_name": "keras_hub>ContrastiveSampler", "config": {"k": 3, "alpha": 0.1, "temperature": 0.5}})
    assert isinstance(made, samplers.ContrastiveSampler) and (made.k, made.alpha, made.temperature) == (3, 0.1, 0.5)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 1.5}, {"alpha": "much"}, {"alpha": float("nan")}, {"temperature": 0}])
def test_bad_arguments(wrong: dict[str, Any]) -> None:
    """Refused when made."""
    with pytest.raises(InvalidInputError):
        samplers.ContrastiveSampler(**wrong)


def test_more_candidates_than_tokens() -> None:
    """Refused when it runs, with both numbers."""
    ids, mask = np.ones((1, LENGTH), np.int32), np.zeros((1, LENGTH), bool)
    mask[0, :3] = True
    with pytest.raises(KexportError, match="9.*8"):
        samplers.ContrastiveSampler(k=9).run(Toy(ids[:, :2]), ids, mask, 3, lambda ids, mask: False)


def test_the_prefill_may_have_seen_the_last_prompt_token() -> None:
    """What a prefill of the whole buffer gave for it is what candidates are compared with, not what the first step gives."""

    class OfBuffer(Toy):
        """Its prefill gives `of_last` for the prompt's last token."""

        of_last: Any = None

        def prompt_hidden_states(self) -> Any:
            seen = self.hidden[np.array(self.rows)]
            seen[:, -1] = self.of_last
            return seen

    sampler = samplers.get({"class_name": "ContrastiveSampler", "config": {"k": VOCABULARY, "alpha": 1.0}})
    chosen = set()
    for token in range(VOCABULARY):
        toy = OfBuffer([[1]])
        toy.of_last = toy.hidden[token]
        ids = np.array([[1, 2, 0]])
        row = sampler.run(toy, ids, np.array([[True, True, False]]), 2, lambda ids, mask: False)[0]
        directions = toy.hidden / np.linalg.norm(toy.hidden, axis=1, keepdims=True)
        largest = np.maximum(directions @ directions[1], directions @ directions[token])
        assert row[2] == largest.argmin()
        chosen.add(int(row[2]))
    assert len(chosen) > 1
