"""Every form of `generate()`'s inputs: texts in arrays, iterables of batches, and dicts that are left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.tokenizer import open_tokenizer

from .byte_tokenizer import END_ID, PAD_ID, START_ID
from .counting_engine import CountingCache, CountingEngine
from .gqa_model import write_decoder, write_encoder_decoder
from .test_language_model import SIZES, VOCABULARY, add_tokenizer, row

TEXTS = ["say ", "what else", "the"]
LENGTH = 16


class Tensor:
    """What a library's tensor looks like from outside: `.numpy()` and nothing else."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def numpy(self) -> Any:
        return self._value


class ArrayLike(Tensor):
    """The same with `__array__`, as eager tensors have it."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self._value, dtype)


class Dataset:
    """What a `tf.data.Dataset` looks like from outside: it can be iterated over, more than once."""

    def __init__(self, *elements: Any) -> None:
        self._elements = elements

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal artifact with a tokenizer."""
    path = tmp_path_factory.mktemp("causal")
    add_tokenizer(path, write_decoder(path, SIZES), {"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=20)})
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    """Greedy."""
    with runtime.load(directory, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


@pytest.fixture(scope="module")
def id_model(directory: Path) -> Any:
    """Greedy, without the tokenizer."""
    with runtime.load(directory, preprocessor=None, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


ONE_TEXT = [b"say ", np.array("say "), np.array(b"say "), np.str_("say "), Tensor(b"say "), ArrayLike(np.array(b"say ", object))]
ONE_BATCH = [
    tuple(TEXTS),
    [text.encode() for text in TEXTS],
    np.array(TEXTS),
    np.array([text.encode() for text in TEXTS], object),
    Tensor(np.array(TEXTS, object)),
    ArrayLike(np.array([text.encode() for text in TEXTS], object)),
    [np.str_(text) for text in TEXTS],
    [ArrayLike(np.array(text, object)) for text in TEXTS],
]
BATCHES = [
    [TEXTS[:2], TEXTS[2:]],
    [tuple(TEXTS[:2]), np.array(TEXTS[2:])],
    Dataset(TEXTS[:2], TEXTS[2:]),
    Dataset(ArrayLike(np.array([b"say ", b"what else"], object)), ArrayLike(np.array([b"the"], object))),
    Dataset(*(ArrayLike(np.array(text.encode(), object)) for text in TEXTS)),
    Dataset(*TEXTS),
]


@pytest.mark.parametrize("inputs", ONE_TEXT, ids=lambda value: type(value).__name__)
def test_one_text_in_any_form_gives_one_text(model: LanguageModel, inputs: Any) -> None:
    """Bytes, arrays without an axis, tensors: a str for each."""
    result = model.generate(inputs, max_length=LENGTH)
    assert type(result) is str
    assert result == model.generate("say ", max_length=LENGTH)
    assert "".join(model.stream(inputs, max_length=LENGTH)) == result


@pytest.mark.parametrize("inputs", ONE_BATCH, ids=lambda value: type(value).__name__)
def test_one_batch_in_any_form_gives_a_list(model: LanguageModel, inputs: Any) -> None:
    """Tuples, arrays of str, of bytes, of objects, tensors: a list of str for each."""
    result = model.generate(inputs, max_length=LENGTH)
    assert type(result) is list
    assert result == model.generate(TEXTS, max_length=LENGTH)


@pytest.mark.parametrize("inputs", BATCHES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("strip_prompt", [False, True])
def test_batches_give_one_list(model: LanguageModel, inputs: Any, strip_prompt: bool) -> None:
    """Run one after the other, joined in their order; a text alone is a batch of one."""
    arguments = {"max_length": LENGTH, "strip_prompt": strip_prompt}
    assert model.generate(inputs, **arguments) == [model.generate(text, **arguments) for text in TEXTS]


def test_batches_are_taken_one_at_a_time(model: LanguageModel) -> None:
    """A generator is asked for a batch when the one before is done, and its seed goes on as over separate calls."""
    seen: list[str] = []

    def texts() -> Iterator[list[str]]:
        for text in TEXTS:
            seen.append(text)
            yield [text]

    model.compile(sampler=runtime.samplers.TopKSampler(k=4, seed=3))
    joined = model.generate(texts(), max_length=LENGTH, stop_token_ids=None)
    model.compile(sampler=runtime.samplers.TopKSampler(k=4, seed=3))
    separate = [model.generate(text, max_length=LENGTH, stop_token_ids=None) for text in TEXTS]
    model.compile(sampler="greedy")
    assert (joined, seen) == (separate, TEXTS)
    with pytest.raises(InvalidInputError, match="KX528"):
        model.generate(iter([["a"], [1]]))
    with pytest.raises(InvalidInputError, match="KX526"):
        model.stream(iter(["a"]))


@pytest.mark.parametrize("form", [list, iter, lambda batches: Dataset(*batches)], ids=["list", "generator", "dataset"])
@pytest.mark.parametrize("wrap", [np.asarray, Tensor, ArrayLike], ids=["array", "tensor", "array-like"])
def test_batches_of_ids_give_one_dict(id_model: LanguageModel, form: Any, wrap: Any) -> None:
    """Joined on axis 0, with KerasHub's keys and the ids' own type."""
    rows = [row([3, 4], 9), row([5], 9), row([6, 7, 8], 9)]
    batches = [{key: wrap(value) for key, value in one.items()} for one in rows]
    result = id_model.generate(form(batches), stop_token_ids=None)
    expected = [id_model.generate(one, stop_token_ids=None) for one in rows]
    for key in ("token_ids", "padding_mask"):
        np.testing.assert_array_equal(result[key], np.concatenate([one[key] for one in expected]))
    assert result["token_ids"].dtype == np.int32


def test_batches_of_different_lengths_are_refused_before_they_run(id_model: LanguageModel) -> None:
    """The batch that differs is named with both lengths; nothing but dicts is a batch of ids."""
    with pytest.raises(InvalidInputError, match=r"KX520.*batch 1 is padded to 8 tokens, the first one to 9"):
        id_model.generate([row([3], 9), row([3], 8)], stop_token_ids=None)
    for wrong in ([], iter([]), [[1, 2]], [row([3], 4), "text"], np.array([[3]]), [{"token_ids": [[3], [4, 5]], "padding_mask": [[1]]}]):
        with pytest.raises(InvalidInputError, match="KX520"):
            id_model.generate(wrong, stop_token_ids=None)


def test_the_callers_dicts_are_left_alone(id_model: LanguageModel, tmp_path: Path) -> None:
    """KerasHub puts lists into a dict of texts and generates into arrays of its own; here nothing of the caller's changes."""
    prompt = row([3, 4], 9)
    before = copy.deepcopy(prompt)
    id_model.generate(prompt, stop_token_ids=(END_ID,))
    assert sorted(prompt) == sorted(before) and all(np.array_equal(prompt[key], before[key]) for key in before)
    packers = {"encoder": Packer(end=(END_ID,), pad=PAD_ID, sequence_length=12), "decoder": Packer(start=(END_ID,), pad=PAD_ID, sequence_length=9)}
    add_tokenizer(tmp_path, write_encoder_decoder(tmp_path, SIZES), packers)
    with runtime.load(tmp_path, threads=1) as seq2seq:
        seq2seq.compile(sampler="greedy")
        texts = {"encoder_text": "hello", "decoder_text": "a"}
        one = seq2seq.generate(texts)
        assert texts == {"encoder_text": "hello", "decoder_text": "a"}
        arrays = {key: np.array([value], object) for key, value in texts.items()}
        assert seq2seq.generate(iter([texts, arrays, "hello"])) == [one, one, seq2seq.generate("hello")]


class StoppingEngine(CountingEngine):
    """Every row's tokens are the same letter, and the end after `new_tokens`. `extend` counts as a decode call but for the first."""

    vocabulary_size = VOCABULARY

    def __init__(self, new_tokens: int) -> None:
        super().__init__()
        self._new_tokens = new_tokens
        self._prompts: list[int] = []

    def extend(self, cache: Any, tokens: Any, lengths: Any = None) -> Any:
        assert isinstance(cache, CountingCache)
        super().extend(cache, tokens, lengths)
        self._prompts = self._prompts or [len(held) for held in cache.rows]
        logits = np.zeros((len(cache.rows), VOCABULARY), np.float32)
        for number, held in enumerate(cache.rows):
            made = len(held) - self._prompts[number] + 1
            logits[number, END_ID if made >= self._new_tokens else 70] = 9
        return logits


def test_rows_of_different_lengths_cost_their_own_new_tokens(directory: Path) -> None:
    """Rows of 10 and 400 prompt tokens that stop after 5 new ones: one prefill and at most 8 decode calls, not 395."""
    with runtime.load(directory, threads=1) as opened:
        manifest = opened.manifest
    assert manifest.tokenizer is not None
    engine = StoppingEngine(new_tokens=5)
    manifest = _with_capacity(manifest, 512)
    model = LanguageModel(engine, manifest, open_tokenizer(directory, manifest.tokenizer))
    model.compile(sampler="greedy")
    prompts = ["x" * 9, "x" * 399]  # and the start token
    texts = model.generate(prompts, max_length=512)
    assert engine.calls[0] == (410, 2)
    assert len(engine.calls) - 1 <= 8
    assert [text[: len(prompt)] for text, prompt in zip(texts, prompts, strict=True)] == prompts
    assert [len(text) - len(prompt) for text, prompt in zip(texts, prompts, strict=True)] == [4, 4]


def _with_capacity(manifest: Any, capacity: int) -> Any:
    import msgspec

    return msgspec.structs.replace(manifest, cache=msgspec.structs.replace(manifest.cache, capacity=capacity))
