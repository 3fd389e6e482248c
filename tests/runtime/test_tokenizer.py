"""Packing of prompts, as KerasHub's StartEndPacker does it, and ids that never become text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.tokenizer import open_tokenizer, pack_rows
from kexport.runtime.tokenizer_check import replay_fixture

from .byte_tokenizer import END_ID, PAD_ID, START_ID, VOCABULARY, write_tokenizer

ROWS = [[11, 12, 13, 14, 15, 16, 17], [11, 12], []]


@pytest.mark.parametrize(
    ("packer", "length", "expected"),
    [
        (Packer(start=(1,), pad=9), 5, [[1, 11, 12, 13, 14], [1, 11, 12, 9, 9], [1, 9, 9, 9, 9]]),
        (Packer(start=(2, 1), pad=0), 4, [[2, 1, 11, 12], [2, 1, 11, 12], [2, 1, 0, 0]]),
        (Packer(start=(1,), end=(2,), pad=9), 5, [[1, 11, 12, 13, 2], [1, 11, 12, 2, 9], [1, 2, 9, 9, 9]]),
        (Packer(end=(2, 3), pad=9), 4, [[11, 12, 2, 3], [11, 12, 2, 3], [2, 3, 9, 9]]),
        (Packer(start=(1,), pad=9, padding_side="left"), 4, [[1, 11, 12, 13], [9, 1, 11, 12], [9, 9, 9, 1]]),
        (Packer(start=(2, 1), pad=9), 1, [[2], [2], [2]]),
    ],
)
def test_packing(packer: Packer, length: int, expected: list[list[int]]) -> None:
    """Start ids always, the prompt cut on its right, end ids kept behind a cut, padding on the packer's side and outside the mask."""
    prompt = pack_rows(ROWS, packer, length)
    assert prompt.ids.tolist() == expected
    given = [min(len(packer.start) + len(row) + len(packer.end), length) for row in ROWS]
    assert prompt.mask.sum(axis=1).tolist() == given
    for ids, mask, row in zip(prompt.ids, prompt.mask, ROWS, strict=True):
        assert ids[mask].tolist() == [i for i in ids.tolist() if i != packer.pad or i in row][: int(mask.sum())]


def test_text_policy(tmp_path: Path) -> None:
    """Stripped ids never become text, others are spelled out; a role without a packer and a prompt beyond the capacity are refused."""
    path = write_tokenizer(tmp_path)
    record = manifest.Tokenizer(
        kind="tokenizers", file=path.name, vocabulary_size=VOCABULARY, stripped_ids=(START_ID, PAD_ID),
        packers={"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=8)},
    )  # fmt: skip
    tokenizer = open_tokenizer(tmp_path, record)
    prompt = tokenizer.pack("prompt", ["say the", ""])
    assert prompt.ids.shape == (2, 8)
    assert tokenizer.texts(prompt.ids, prompt.mask) == ["say the", ""]
    assert tokenizer.decode([START_ID, *tokenizer.encode(["a"])[0], END_ID]) == "a</s>"
    with pytest.raises(InvalidInputError, match="KX541"):
        tokenizer.pack("encoder", ["a"])
    with pytest.raises(InvalidInputError, match="KX523"):
        tokenizer.pack("prompt", ["a" * 20], capacity=20)
    assert tokenizer.pack("prompt", ["a" * 19], capacity=20).ids.shape == (1, 8)


def with_fixture(directory: Path, fixture: Any) -> Any:
    """The test's tokenizer, and `fixture` as what was recorded of it."""
    path = write_tokenizer(directory)
    (directory / "fixture.json").write_text(fixture if isinstance(fixture, str) else json.dumps(fixture), encoding="utf-8")
    record = manifest.Tokenizer(kind="tokenizers", file=path.name, vocabulary_size=VOCABULARY, packers={}, fixture="fixture.json")
    return open_tokenizer(directory, record)


def test_recorded_strings_are_encoded_again(tmp_path: Path) -> None:
    """As many as were recorded; one that differs is named with both answers; an artifact without a record passes."""
    texts = ["say the", "größe 日本", "", "</s> x"]
    tokenizer = with_fixture(tmp_path, {"pairs": []})
    pairs = [{"text": text, "ids": ids} for text, ids in zip(texts, tokenizer.encode(texts), strict=True)]
    assert replay_fixture(tmp_path, with_fixture(tmp_path, {"pairs": pairs})) == len(texts)
    pairs[1]["ids"] = [5, *pairs[1]["ids"]]
    with pytest.raises(InvalidInputError, match=r"KX542.*größe"):
        replay_fixture(tmp_path, with_fixture(tmp_path, {"pairs": pairs}))
    bare = manifest.Tokenizer(kind="tokenizers", file="tokenizer.json", vocabulary_size=VOCABULARY, packers={})
    assert replay_fixture(tmp_path, open_tokenizer(tmp_path, bare)) == 0


@pytest.mark.parametrize("fixture", ["", "[]", "{}", '{"pairs": [{"text": 3, "ids": []}]}', {"pairs": [{"text": "a", "ids": ["x"]}]}, "[" * 100_000])
def test_a_record_that_is_none_is_refused(tmp_path: Path, fixture: Any) -> None:
    """A damaged file is said to be that."""
    with pytest.raises(InvalidInputError, match="KX543"):
        replay_fixture(tmp_path, with_fixture(tmp_path, fixture))
