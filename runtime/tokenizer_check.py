"""The recorded strings of an artifact's tokenizer, encoded again: this machine's libraries must give the ids that the original gave."""

from __future__ import annotations

from pathlib import Path

import msgspec
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.paths import open_path
from kexport.runtime.tokenizer import Tokenizer

_SHOWN = 60


class _Pair(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    ids: list[int]


class _Fixture(msgspec.Struct, forbid_unknown_fields=True):
    pairs: list[_Pair]


def replay_fixture(directory: Path, tokenizer: Tokenizer) -> int:
    """Encode every recorded string; how many there were, 0 for an artifact without a record.

    Raises InvalidInputError: KX542 where ids differ, naming the first string; KX543 for a record that cannot be read; KX508 without its file.
    """
    name = tokenizer.record.fixture
    if not name:
        return 0
    path = open_path(directory, name)
    try:
        pairs = msgspec.json.decode(path.read_bytes(), type=_Fixture).pairs
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        hint = "the file is damaged; convert the model again or fetch the artifact from its source again"
        raise InvalidInputError("KX543", f"`{name}` holds no strings with their ids: {error}", hint=hint) from error
    for pair, ids in zip(pairs, tokenizer.encode([pair.text for pair in pairs]), strict=True):
        if ids != pair.ids:
            shown = repr(pair.text) if len(pair.text) <= _SHOWN else repr(pair.text[:_SHOWN]) + "…"
            raise InvalidInputError(
                "KX542",
                f"the tokenizer gives {shown} other ids than the original did: {ids[:8]} instead of {pair.ids[:8]}",
                hint="another version of its library may read the file differently: pip install --upgrade tokenizers sentencepiece",
            )
    return len(pairs)
