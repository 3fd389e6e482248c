"""The tokenizer and detokenizer models give the ids and texts of the tokenizer.json they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import tokenizers
from kexport.targets.openvino.tokenizer import write_tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tests.targets.onnx.test_files import digests
from tests.targets.onnx.toys import Toy, decoder
from tests.targets.openvino.runs import write

pytest.importorskip("openvino_tokenizers")

CORPUS = ["the cat sat on the mat", "The 3 cats and 12 dogs", "def add(x, y):\n    return x + y\n", "naïve café 👍 日本語"] * 9
TEXTS = ["the cat", " leading space", "12 dogs sat on 3 mats", "so 👍 it is", "def f(x):\n    return x\n", "日本 café", "  two  spaces  "]
LITERAL = r"\s+(?!\S)|\s+"  # a text to split at that looks like a pattern: KerasHub's byte-level tokenizers carry one


def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE, its special tokens split off, as KerasHub's are exported."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(LITERAL, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet))
    return tokenizer


def piece_level() -> tokenizers.Tokenizer:
    """BPE over pieces with byte fallback, no token split off, as SentencePiece models are exported."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    document = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    return tokenizers.Tokenizer.from_str(json.dumps(document))


KINDS = {"byte level": byte_level, "pieces": piece_level}
NAMES = {
    "byte level": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "pieces": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
}


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, tokenizers.Tokenizer, int]]:
    """A directory with both models, the tokenizer, and the id that every prompt starts with."""
    tokenizer = KINDS[request.param]()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(NAMES[request.param]))
    start = tokenizer.token_to_id("<s>")
    files, why_not = write_tokenizer(tmp_path, [start])
    assert why_not == "" and len(files) == 4
    yield tmp_path, tokenizer, start


def compiled(path: Path) -> Any:
    return ov.Core().compile_model(path, "CPU")


def test_ids_and_texts_are_the_tokenizers(written: tuple[Path, tokenizers.Tokenizer, int]) -> None:
    """Spaces, digits, line breaks and an emoji included; the prompt's first id is put in front; ids come back as the text."""
    directory, tokenizer, start = written
    encode, decode = compiled(directory / "openvino_tokenizer.xml"), compiled(directory / "openvino_detokenizer.xml")
    for text in TEXTS:
        ids = encode([text])["input_ids"][0].tolist()
        assert ids == [start, *tokenizer.encode(text).ids], text
        assert decode(np.array([ids[1:]]))["string_output"][0] == text


def test_batches_are_padded_on_the_left(written: tuple[Path, tokenizers.Tokenizer, int]) -> None:
    """As the decoder wants them, the mask 0 there."""
    directory, tokenizer, start = written
    texts = ["12", "the cat sat on 12 mats"]
    got = compiled(directory / "openvino_tokenizer.xml")(texts)
    for ids, mask, text in zip(got["input_ids"], got["attention_mask"], texts, strict=True):
        expected = [start, *tokenizer.encode(text).ids]
        assert ids[-len(expected) :].tolist() == expected
        assert mask.tolist() == [0] * (len(ids) - len(expected)) + [1] * len(expected)


def test_the_same_tokenizer_gives_the_same_bytes(written: tuple[Path, tokenizers.Tokenizer, int]) -> None:
    """A second run in the same process too."""
    directory, _, start = written
    before = digests(directory)
    write_tokenizer(directory, [start])
    assert digests(directory) == before


def test_other_tokenizers_are_named(tmp_path: Path) -> None:
    """No tokenizer.json, or one that openvino_tokenizers cannot read: the artifact is whole without, and the reason is told."""
    assert write_tokenizer(tmp_path)[1] == "there is no tokenizer.json to make its tokenizer from"
    tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "##a": 1, "<s>": 2}, [], continuing_subword_prefix="##"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    files, why_not = write_tokenizer(tmp_path)
    assert files == () and "continuing_subword_prefix" in why_not


def test_genai_generates_text(written: tuple[Path, tokenizers.Tokenizer, int]) -> None:
    """Text in, text out on both backends: the text of the ids that our engine gives."""
    genai = pytest.importorskip("openvino_genai")
    from kexport.targets.openvino import write_vendor_files

    directory, tokenizer, start = written
    toy = Toy(vocabulary=tokenizer.get_vocab_size(), windows=(4,))
    files = write(directory, decoder(toy))
    end, new = tokenizer.token_to_id("</s>"), 8
    write_vendor_files(directory, files.emitted, stop_token_ids=[end], has_tokenizer=True, prompt_start=[start])
    for text in ("the cat", " 3 cats 👍"):
        tokens = [start, *tokenizer.encode(text).ids]
        prompt = len(tokens)
        with files.open() as engine:
            cache = engine.new_cache(1, files.emitted.cache.capacity)
            logits = engine.extend(cache, np.array([tokens]))
            while len(tokens) < prompt + new and tokens[-1] != end:
                tokens.append(int(logits[0].argmax()))
                logits = engine.extend(cache, np.array([tokens[-1:]]))
        for backend in ("SDPA", "PA"):
            pipeline = genai.LLMPipeline(str(directory), "CPU", INFERENCE_PRECISION_HINT="f32", ATTENTION_BACKEND=backend)
            got = pipeline.generate(text, max_new_tokens=new, apply_chat_template=False)
            detokenized = compiled(directory / "openvino_detokenizer.xml")(np.array([tokens[prompt:]]))["string_output"][0]
            assert got == detokenized
