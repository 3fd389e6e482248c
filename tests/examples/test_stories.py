"""The story teller: the demo model's only text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import stories

SAMPLE = range(300)
EXAMPLES = Path(stories.__file__).parent
FEWEST_WORDS = 300


@pytest.fixture(scope="module")
def told() -> list[str]:
    """Return some hundred stories, told once."""
    return list(stories.tales(len(SAMPLE)))


def test_a_number_always_tells_the_same_story() -> None:
    """A story depends on its number only, not on the process (string hashing is randomized) nor on what was told before."""
    code = "import stories; print(stories.tell(5))"
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, env={"PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=True
    )
    assert other.stdout.rstrip("\n") == stories.tell(5)


def test_stories_differ(told: list[str]) -> None:
    """Two numbers do not tell the same story, so held-out numbers are held-out text."""
    assert len(set(told)) == len(SAMPLE)


def test_every_plot_is_told(told: list[str]) -> None:
    """Each plot has a phrase only it uses, and each turns up."""
    everything = "\n".join(told)
    assert all(phrase in everything for phrase in ("help us now", "The second door was that of", "If that is "))


def test_a_story_is_clean_prose(told: list[str]) -> None:
    """No slot is left open, quotes are paired in each story, sentences start with a capital, and it is long enough to outlast a demo."""
    for text in told:
        assert not any(mark in text for mark in ("{", "}", "  ", "..", " ,", "None", "\n\n"))
        assert text.count('"') % 2 == 0
        assert all(sentence.lstrip('"')[0].isupper() for sentence in stories.sentences(text))
        assert len(text.split()) >= FEWEST_WORDS


def test_choices_have_favourites(told: list[str]) -> None:
    """What is chosen first in a context is chosen clearly more often than what comes second: a model can have a margin there."""
    counts: dict[str, int] = {}
    for text in told:
        opening = text.split(" ", 1)[0]
        counts[opening] = counts.get(opening, 0) + 1
    first, second = sorted(counts.values(), reverse=True)[:2]
    assert first > 1.3 * second


def test_sentences_keep_the_speaker_with_the_speech() -> None:
    """A story is cut between sentences, not between a question and who asked it."""
    text = '"Why not?" said Tom, and went. "Well," said Ned, "who knows?"\nIt rained.'
    assert stories.sentences(text) == ['"Why not?" said Tom, and went.', '"Well," said Ned, "who knows?"', "It rained."]
    assert " ".join(stories.sentences(text)) == text.replace("\n", " ")
