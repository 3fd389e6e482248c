"""The loop inside the graph: drawing, stopping, rows of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
VOCABULARY = 112
PROMPT = [5, 9, 33]


@pytest.fixture(scope="module")
def generate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """prompts, new tokens, choices -> (token ids, lengths)."""
    from tests.targets.savedmodel.artifacts import golden_artifact, padded, sampling, tf

    directory = tmp_path_factory.mktemp("mistral")
    golden_artifact("mistral", directory, capacity=24)
    model = tf.saved_model.load(str(directory))

    def call(prompts: list[list[int]], new: int, **choices: Any) -> tuple[Any, Any]:
        ids, mask = padded(prompts, max(map(len, prompts)))
        given = {"tokens": tf.constant(ids), "lengths": tf.constant(mask.sum(1), tf.int32), "max_new_tokens": tf.constant(new, tf.int32)}
        result = model.signatures["generate"](**given, **sampling(**choices))
        return result["token_ids"].numpy(), result["lengths"].numpy()

    return call


def test_a_seed_repeats_and_another_differs(generate: Any) -> None:
    """Drawn tokens depend on the seed alone."""
    first, _ = generate([PROMPT], 16, temperature=1.5, seed=3)
    again, _ = generate([PROMPT], 16, temperature=1.5, seed=3)
    other, _ = generate([PROMPT], 16, temperature=1.5, seed=4)
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("choice", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_narrow_choices_are_greedy(generate: Any, choice: dict[str, Any]) -> None:
    """One candidate, a vanishing share, or a vanishing temperature leave the likeliest token."""
    greedy, _ = generate([PROMPT], 16)
    drawn, _ = generate([PROMPT], 16, **{"temperature": 1.0, "seed": 1} | choice)
    assert (greedy == drawn).all()


@pytest.mark.parametrize(("choice", "most"), [({"top_k": 3}, 3), ({"top_k": 5, "top_p": 0.999999}, 5)])
def test_top_k_draws_from_the_k_likeliest(generate: Any, choice: dict[str, Any], most: int) -> None:
    """Over many rows of one prompt no more than k different first tokens come up, and more than one does."""
    tokens, _ = generate([PROMPT] * 200, 1, temperature=3.0, seed=5, **choice)
    assert 1 < len(set(tokens[:, -1].tolist())) <= most


def test_top_p_draws_from_the_smallest_set_that_reaches_p(generate: Any, tmp_path: Path) -> None:
    """The tokens that come up are those whose shares, in order, begin below p."""
    from kexport.runtime.engines.base import open_engine

    from tests.targets.savedmodel.artifacts import golden_artifact

    _, manifest = golden_artifact("mistral", tmp_path)
    with open_engine(tmp_path, manifest) as engine:
        logits = engine.extend(engine.new_cache(1, 8), np.array([PROMPT]))[0].astype(np.float64) / 4
    shares = np.exp(logits - logits.max())
    shares = np.sort(shares / shares.sum())[::-1]
    before = np.cumsum(shares) - shares
    p = float((before[4] + before[5]) / 2)
    tokens, _ = generate([PROMPT] * 400, 1, temperature=4.0, seed=2, top_p=p)
    assert len(set(tokens[:, -1].tolist())) == 5


def test_a_stopped_row_ends_while_others_go_on(generate: Any) -> None:
    """Zeros behind the stop id, the others as without stop ids; all stopped ends the loop."""
    rows = [PROMPT, [7, 8], [1, 2, 3, 4]]
    plain, _ = generate(rows, 12)
    stop = int(plain[0, len(PROMPT) + 4])
    stopped, lengths = generate(rows, 12, stop=(stop,))
    for row, (tokens, length) in enumerate(zip(stopped, lengths, strict=True)):
        assert (tokens[:length] == plain[row, :length]).all() and not tokens[length:].any()
        new = tokens[len(rows[row]) : length].tolist()
        assert stop not in new[:-1] and (new[-1] == stop or len(new) == 12)
    assert lengths[0] < len(PROMPT) + 12


def test_rows_do_not_see_each_other(generate: Any) -> None:
    """Each row of a ragged batch gives what it gives on its own."""
    rows = [PROMPT, [7], [1, 2, 3, 4, 5, 6]]
    together, lengths = generate(rows, 10)
    assert lengths.tolist() == [len(row) + 10 for row in rows]
    for row, tokens, length in zip(rows, together, lengths, strict=True):
        alone, _ = generate([row], 10)
        assert (tokens[:length] == alone[0]).all()


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (-3, 0), (1, 1), (500, 21)])
def test_new_tokens_are_held_to_the_capacity(generate: Any, asked: int, given: int) -> None:
    """None is none, and no more than the model's positions."""
    tokens, lengths = generate([PROMPT], asked)
    assert tokens.shape == (1, len(PROMPT) + given) and lengths.tolist() == [len(PROMPT) + given]
