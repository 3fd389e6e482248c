"""LiteRT-LM opens the bundle unmodified: the same ids for prompts, the same text for their greedy continuations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.runtime.native_output import captured_stderr
from kexport.targets.tflite import write_vendor_files

from tests.targets.onnx.toys import Reference, Toy, decoder
from tests.targets.tflite.helpers import Files, write

litert_lm = pytest.importorskip("litert_lm")

TEXT = "the quick brown fox jumps over the lazy dog and 12 or 345 more dogs, héllo wörld! "
PROMPTS = ["the quick", " brown fox", "12 or 345 dogs", "héllo 🙂", "the lazy dog jumps over the quick brown fox and the lazy dog"]
BEGIN, END = 0, 1
NEW_TOKENS = 12
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma": {"offset": 1.0, "tied": True, "kv_heads": 1, "activation": "gelu"},
    "gemma2": {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "final_softcap": 30.0, "activation": "gelu"},
    "bloom": {"alibi": True, "rope": False, "norm": "layer_norm", "kv_heads": 4, "activation": "gelu", "layers": 1},
    "learned positions": {"rope": False, "learned_positions": True},
}


def byte_level(directory: Path) -> tuple[int, Callable[[str], list[int]], Callable[[list[int]], str]]:
    """A byte-level BPE tokenizer.json: vocabulary size, encode, decode."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer.get_vocab_size(), lambda text: tokenizer.encode(text).ids, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def sentence_piece(directory: Path) -> tuple[int, Callable[[str], list[int]], Callable[[list[int]], str]]:
    """A SentencePiece BPE model with byte fallback, as tokenizer.spm."""
    import sentencepiece

    corpus = directory / "corpus.txt"
    corpus.write_text("\n".join([TEXT] * 50), encoding="utf-8")
    stem = directory / "spm"
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(stem), vocab_size=330, model_type="bpe", byte_fallback=True, character_coverage=1.0,
        bos_id=BEGIN, eos_id=END, unk_id=2, minloglevel=2,
    )  # fmt: skip
    (directory / "spm.model").rename(directory / "tokenizer.spm")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.spm"))
    return processor.get_piece_size(), processor.encode, processor.decode


@contextmanager
def engine_on(directory: Path) -> Iterator[Any]:
    """LiteRT-LM on a bundle, one thread, silent."""
    with captured_stderr():
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
        engine = litert_lm.Engine(str(directory / "model.litertlm"), backend=litert_lm.Backend.CPU(thread_count=1), cache_dir=":nocache")
        try:
            yield engine
        finally:
            engine.close()


def continued(engine: Any, prompt: str, new_tokens: int) -> str:
    """The greedy continuation's text."""
    sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
    session = engine.create_session(apply_prompt_template=False, sampler_config=sampler, max_output_tokens=new_tokens)
    session.run_prefill([prompt])
    text: str = session.run_decode().texts[0]
    session.close()
    return text


def greedy(files: Files, ids: list[int], new_tokens: int) -> list[int]:
    """New tokens by our interpreter, up to the end id."""
    reference, new = Reference(files.graphs["extend"], files.source, 1, 120), []
    logits = reference.extend(np.array([ids]), np.array([len(ids)]))
    while len(new) < new_tokens:
        new.append(int(logits[0, -1].argmax()))
        if new[-1] == END:
            break
        logits = reference.extend(np.array([new[-1:]]), np.array([1]))
    return new


def bundled(directory: Path, toy: Toy) -> Files:
    """A bundle of a toy decoder."""
    files = write(directory, decoder(toy), capacity=100 if not toy.learned_positions else 24, package="litertlm")
    _, runtimes = write_vendor_files(directory, files.emitted, stop_token_ids=[END], prompt_start=[BEGIN], has_tokenizer=True)
    assert {runtime.name: runtime.accepted for runtime in runtimes} == {"litert": False, "litert-lm": True}
    assert not files.path.exists()
    return files


def shown(text: str, kind: Any) -> str:
    """Without what the two may differ in: half a character at the end, and SentencePiece's leading space."""
    text = text.rstrip("\ufffd")
    return text.lstrip(" ") if kind is sentence_piece else text


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", [byte_level, sentence_piece])
def test_ids_and_text(kind: Any, name: str, tmp_path: Path) -> None:
    """Prompts with a leading space, digits, an emoji, and one longer than the largest bucket.

    SentencePiece drops a leading space from what it decodes, and LiteRT-LM decodes a continuation alone: so does this test.
    """
    size, encode, decode = kind(tmp_path)
    toy = Toy(**({"vocabulary": size} | FAMILIES[name]))
    files = bundled(tmp_path, toy)
    seen = set()
    with engine_on(tmp_path) as engine:
        assert engine.bos_token_id == BEGIN
        for prompt in PROMPTS[:3] if toy.learned_positions else PROMPTS:
            ids = encode(prompt)
            assert list(engine.tokenize(prompt)) == ids
            new = greedy(files, [BEGIN, *ids], NEW_TOKENS if not toy.learned_positions else min(NEW_TOKENS, 24 - len(ids) - 1))
            want = decode([token for token in new if token != END])
            got = continued(engine, prompt, len(new))
            assert shown(got, kind) == shown(want, kind)
            seen.add(got)
    assert len(seen) > 1


def test_two_bundles_are_the_same_bytes(tmp_path: Path) -> None:
    """No time, no random number."""
    contents = set()
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        byte_level(directory)
        bundled(directory, Toy(vocabulary=320))
        contents.add((directory / "model.litertlm").read_bytes())
    assert len(contents) == 1


def test_the_vendors_tool_reads_the_header(tmp_path: Path) -> None:
    """The builder package's own inspection lists the three sections."""
    import io

    from litert_lm_builder import litertlm_peek

    byte_level(tmp_path)
    bundled(tmp_path, Toy(vocabulary=320))
    out = io.StringIO()
    litertlm_peek.peek_litertlm_file(str(tmp_path / "model.litertlm"), str(tmp_path), out)
    report = out.getvalue()
    for word in ("TFLiteModel", "HF_Tokenizer_Zlib", "LlmMetadataProto", "tf_lite_prefill_decode"):
        assert word in report
