"""Cutting before a stop text while the text comes in pieces: the pieces must not show in the result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kexport.converter.stop_text import StopText


def cut(text: str, stops: list[str], skip: int) -> str:
    """The rule itself, on the whole text."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if end - len(stop) >= skip and text.startswith(stop, end - len(stop))]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=10), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3), st.integers(0, 5)
)  # fmt: skip
def test_pieces_do_not_matter(pieces: list[str], stops: list[str], skip: int) -> None:
    """Whatever the pieces, the result is the text cut before the stop text that is complete first outside the prompt."""
    stop = StopText(stops, skip)
    passed = [stop.feed(piece) for piece in pieces]
    assert "".join(passed) + stop.end() == cut("".join(pieces), stops, skip)


def test_text_is_passed_on_at_once() -> None:
    """Only what may begin a stop text is held back."""
    stop = StopText(["\n\n"])
    assert [stop.feed(piece) for piece in ("one", " two\n", "three\n", "\nfour", "five")] == ["one", " two", "\nthree", "", ""]
    assert stop.found
    assert stop.end() == ""
