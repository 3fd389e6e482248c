"""`stream()` is `generate()` in pieces, for every kind of tokenizer that an artifact can carry: whatever ids a model gives."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kexport.converter.tokenizers.registry import Rendering
from kexport.converter.tokenizers.sentence_piece import render_sentence_piece
from kexport.runtime.contract import manifest as records
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.streaming import _ByteStream, _PieceStream, text_stream
from kexport.runtime.tokenizer import Tokenizer, open_tokenizer

from . import byte_tokenizer
from .counting_engine import CountingCache, CountingEngine

CORPUS = ["the quick brown fox jumps over the lazy dog", "größe und maße", "日本語のテキスト", "a  b   c", "x = [1, 22, 333]  # notes", "😀 fin."] * 20
LONGEST = 24
END_ID = 2
COMMON = {
    "pad_id": 0, "bos_id": 1, "eos_id": END_ID, "unk_id": 3, "minloglevel": 2, "user_defined_symbols": ["<turn>", "▁▁"], "num_threads": 1,
}  # fmt: skip
PIECES = {
    "bpe with a dummy prefix": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bpe without a prefix": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400, "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
    "unigram as T5 has it": {"model_type": "unigram", "vocab_size": 55, "normalization_rule_name": "nmt_nfkc"},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 310, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
}  # fmt: skip


def renderings(options: dict[str, Any]) -> list[Rendering]:
    """The files that a SentencePiece model becomes."""
    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=writer, **COMMON, **options)
    return render_sentence_piece(SimpleNamespace(add_bos=False, add_eos=False, proto=writer.getvalue()))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Byte-level BPE, and every file of every SentencePiece model, opened as an artifact's."""
    directory = tmp_path_factory.mktemp("tokenizers")
    packers = {"prompt": Packer(start=(1,), sequence_length=LONGEST)}
    byte_level = byte_tokenizer.write_tokenizer(directory)
    record = records.Tokenizer(
        kind="tokenizers", file=byte_level.name, vocabulary_size=byte_tokenizer.VOCABULARY, packers=packers, stripped_ids=(0, 1, 2), stop_token_ids=(END_ID,)
    )
    found = {"byte-level bpe": open_tokenizer(directory, record)}
    for name, options in PIECES.items():
        for rendering in renderings(options):
            file = f"{len(found)}-{rendering.file}"
            Path(directory, file).write_bytes(rendering.content)
            size = options["vocab_size"]
            record = records.Tokenizer(
                kind=rendering.kind, file=file, vocabulary_size=size, packers=packers, stripped_ids=(0, 1, 2), stop_token_ids=(END_ID,),
                piece_decoder=rendering.piece_decoder,
            )  # fmt: skip
            found[f"{name}, {rendering.file}"] = open_tokenizer(directory, record)
    return found


NAMES = [
    "byte-level bpe",
    *(f"{name}, {file}" for name in PIECES for file in ("tokenizer.json", "tokenizer.spm") if "bpe" in name or file == "tokenizer.spm"),
]


class ScriptedEngine(CountingEngine):
    """Gives the ids it is told, one after the other, to its only row."""

    def __init__(self, vocabulary_size: int, script: list[int]) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self._script = iter(script)

    def extend(self, cache: Any, tokens: Any, lengths: Any = None) -> Any:
        assert isinstance(cache, CountingCache)
        super().extend(cache, tokens, lengths)
        logits = np.zeros((len(cache.rows), self.vocabulary_size), np.float32)
        logits[:, next(self._script)] = 9
        return logits


def model_of(tokenizer: Tokenizer, script: list[int]) -> LanguageModel:
    """A greedy model that says `script`."""
    size = tokenizer.record.vocabulary_size
    manifest = records.Manifest(
        producer=records.Producer(kexport="test"), source=records.Source(handle="x", class_name="Test"), task="causal-lm", target="onnx",
        tokenizer=tokenizer.record, generation=records.Generation(vocabulary_size=size, max_length=LONGEST, stop_token_ids=(END_ID,)),
    )  # fmt: skip
    model = LanguageModel(ScriptedEngine(size, script), manifest, tokenizer, allow_unverified=True)
    model.compile(sampler="greedy")
    return model


def test_all_kinds_are_here(tokenizers: dict[str, Tokenizer]) -> None:
    """What the converter writes today is what is tested, and every kind streams while it runs instead of at the end."""
    assert set(NAMES) == set(tokenizers)
    for tokenizer in tokenizers.values():
        assert isinstance(text_stream(tokenizer), (_ByteStream, _PieceStream))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_join_to_the_text(name: str, data: st.DataObject, tokenizers: dict[str, Tokenizer]) -> None:
    """Any ids: parts of characters, unknown and special ones, spaces at the start; with the prompt and without; up to a stop or the end."""
    tokenizer = tokenizers[name]
    any_id = st.integers(0, tokenizer.record.vocabulary_size - 1)
    text_ids = st.sampled_from(["größe", "日本語 😀", "  a  b", "\x00é\n", "the fox"]).map(lambda text: tokenizer.encode([text])[0])
    script = [i for part in data.draw(st.lists(st.one_of(any_id.map(lambda i: [i]), text_ids), max_size=12)) for i in part]
    script += [5] * LONGEST
    prompt = data.draw(st.sampled_from(["", "the", " 日", "a  ", "größ"]))
    arguments = {"stop_token_ids": data.draw(st.sampled_from(["auto", None])), "strip_prompt": data.draw(st.booleans())}
    pieces = list(model_of(tokenizer, script).stream(prompt, **arguments))
    text = model_of(tokenizer, script).generate(prompt, **arguments)
    assert "".join(pieces) == text
    assert all(pieces)


@pytest.mark.parametrize("name", NAMES)
def test_characters_come_whole_and_soon(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    """No piece holds a broken character where the text has none, and the first words are there before the last ones are made."""
    tokenizer = tokenizers[name]
    script = tokenizer.encode(["the größe fox dog"])[0][: LONGEST - 2]
    model = model_of(tokenizer, [*script, END_ID, END_ID])
    pieces = []
    for piece in model.stream("", max_length=LONGEST):
        pieces.append((piece, len(model.engine.calls)))  # type: ignore[attr-defined]
    assert "\ufffd" not in "".join(piece for piece, _ in pieces)[:-1]
    assert "".join(piece for piece, _ in pieces) == tokenizer.decode(script)
    assert len(pieces) > 2 and pieces[0][1] < pieces[-1][1]
