"""Vocabularies of byte strings: the longest piece wins, text comes back, and a file that is not one is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.longest_match import LongestMatch, read_vocabulary
from kexport.runtime.tokenizer import Tokenizer, open_tokenizer

from . import longest_match_vocabulary as vocabulary


def opened(folder: Path, content: str) -> Tokenizer:
    """The runtime's tokenizer over a file with this content."""
    (folder / "vocabulary.txt").write_text(content, encoding="utf-8", newline="")
    return open_tokenizer(folder, manifest.Tokenizer(kind="longest_match", file="vocabulary.txt", vocabulary_size=1, packers={}))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of the small vocabulary."""
    return opened(tmp_path_factory.mktemp("vocabulary"), "".join(vocabulary.lines()))


def spelled(tokenizer: Tokenizer, text: str) -> list[bytes]:
    """The bytes of each id that `text` becomes."""
    return [vocabulary.TOKENS[identifier - vocabulary.FIRST_ID] for identifier in tokenizer.encode([text])[0]]


def test_the_longest_piece_wins(tokenizer: Tokenizer) -> None:
    """Also where a shorter one ends at a character, and at the end of the text."""
    assert spelled(tokenizer, "hello the thing") == [b"hello", b" the", b" ", b"t", b"h", b"ing"]
    assert spelled(tokenizer, "日本 é \n\n\n") == ["日本".encode(), " é".encode(), b" ", b"\n\n", b"\n"]
    assert spelled(tokenizer, "日") == [b"\xe6\x97", b"\xa5"]
    assert spelled(tokenizer, "") == []


@given(text=st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    """Any text is the text of its ids."""
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


@given(data=st.binary(max_size=40), table=st.lists(st.binary(min_size=1, max_size=4), max_size=12))
def test_each_piece_is_the_longest_that_fits(data: bytes, table: list[bytes]) -> None:
    """Compared with trying every token at every place."""
    tokens = dict(enumerate([*(bytes([value]) for value in range(256)), *table]))
    matcher = LongestMatch(tokens)
    place = 0
    for identifier in matcher.encode(data):
        assert len(tokens[identifier]) == max(len(token) for token in tokens.values() if data.startswith(token, place))
        assert data.startswith(tokens[identifier], place)
        place += len(tokens[identifier])
    assert place == len(data)


def test_zero_and_unknown_ids_are_silent(tokenizer: Tokenizer) -> None:
    """Padding never becomes text; an id without a token has none; broken bytes are marked as such."""
    hello = tokenizer.encode(["hello"])[0]
    assert tokenizer.decode([0, *hello, 0, 60_000]) == "hello"
    assert tokenizer.decode([*hello, vocabulary.FIRST_ID + 0xE6]) == "hello\ufffd"
    assert tokenizer.codec.piece(60_000) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 'a'", "line 2 is not"),
        ("", "line 2 is not"),
        ("x 'a' 1", "line 2 is not"),
        ("-1 'a' 1", "line 2 is not"),
        ("1 __import__('os').getcwd() 1", "line 2 is not"),
        ("1 ('a') 1", "line 2 is not"),
        ("1 'a' 'b' 2", "line 2 is not"),
        ("1 f'{1}' 1", "line 2 is not"),
        ("1 'a' 2", "line 2 says 2 bytes; its literal has 1"),
        ("1 'é' 1", "line 2 says 1 bytes; its literal has 2"),
        ("1 b'é' 2", "line 2: "),
        (r"1 '\ud800' 3", "line 2: "),
        (r"1 '\x' 1", "line 2: "),
        ("9999999999 'a' 1", "line 2 has the id 9999999999"),
        (f"1 '{'a' * 10_000}' 10000", "line 2 is not"),
    ],
)
def test_a_malformed_line_is_refused(line: str, words: str, tmp_path: Path) -> None:
    """With its number, as an unreadable tokenizer; nothing in it is run."""
    with pytest.raises(InvalidInputError, match=words) as raised:
        opened(tmp_path, f"7 'b' 1\n{line}\n")
    assert raised.value.code == "KX540"


@given(literal=st.text(st.characters(exclude_characters="\n"), max_size=12), form=st.sampled_from(["{}", "'{}'", 'b"{}"', r"'\N{{{}}}'", r"'\u{}'"]))
def test_any_line_is_read_or_refused(literal: str, form: str) -> None:
    """Whatever stands in the place of the literal: bytes come out, or a ValueError that names the line."""
    line = f"1 {form.format(literal)} {len(literal.encode('utf-8', 'replace'))}"
    try:
        assert isinstance(read_vocabulary(line)[1], bytes)
    except ValueError as error:
        assert str(error).startswith("line 1")


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a list beyond the bounds is refused before its lines are read."""
    monkeypatch.setattr("kexport.runtime.longest_match.MOST_TOKENS", 2)
    with pytest.raises(ValueError, match="3 lines"):
        read_vocabulary("1 'a' 1\n2 'b' 1\n3 'c' 1\n")
    monkeypatch.setattr("kexport.runtime.longest_match.LONGEST_FILE", 10)
    with pytest.raises(ValueError, match="16 characters"):
        read_vocabulary("1 'a' 1\n2 'b' 1\n")


def test_what_has_no_token_is_refused(tmp_path: Path) -> None:
    """A byte that no token begins with, and half a surrogate pair, which is no text at all."""
    tokenizer = opened(tmp_path, "1 'a' 1\n")
    for text, words in (("ab", "no token begins with the byte 0x62"), ("a\ud800", "surrogates not allowed")):
        with pytest.raises(InvalidInputError, match=words) as raised:
            tokenizer.encode([text])
        assert raised.value.code == "KX528"
