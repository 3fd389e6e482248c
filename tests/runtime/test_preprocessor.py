"""`lm.preprocessor`: what a KerasHub script does with it gives the ids and texts that `generate()` uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Packer

from .byte_tokenizer import END_ID, PAD_ID, START_ID
from .gqa_model import write_decoder, write_encoder_decoder
from .test_language_model import SIZES, add_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A causal artifact with a tokenizer of bytes."""
    path = tmp_path_factory.mktemp("causal")
    add_tokenizer(path, write_decoder(path, SIZES), {"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=20)})
    with runtime.load(path, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An encoder-decoder artifact."""
    path: Path = tmp_path_factory.mktemp("seq2seq")
    packers = {
        "encoder": Packer(start=(START_ID,), end=(END_ID,), pad=PAD_ID, sequence_length=12),
        "decoder": Packer(start=(END_ID, START_ID), pad=PAD_ID, sequence_length=20),
    }
    add_tokenizer(path, write_encoder_decoder(path, SIZES), packers)
    with runtime.load(path, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


def test_prompts_are_packed_as_generate_packs_them(model: Any) -> None:
    """Packed by hand and generated without the preprocessor, then turned to text: the text of generate()."""
    wanted = model.generate(["ab", "c"], max_length=16)
    packed = model.preprocessor.generate_preprocess(["ab", "c"], sequence_length=16)
    assert packed["token_ids"].shape == packed["padding_mask"].shape == (2, 16)
    assert packed["token_ids"].dtype == np.int32 and packed["padding_mask"].sum(axis=1).tolist() == [3, 2]
    keeper, model.preprocessor = model.preprocessor, None
    try:
        outputs = model.generate(packed, stop_token_ids=(END_ID,))
        with pytest.raises(InvalidInputError, match="preprocessor"):
            model.generate(packed)
    finally:
        model.preprocessor = keeper
    assert model.preprocessor.generate_postprocess(outputs) == wanted
    assert model.generate(["ab", "c"], max_length=16) == wanted


def test_one_text_is_one_row(model: Any) -> None:
    """Without a batch axis in, none out; the length is the model's own."""
    packed = model.preprocessor.generate_preprocess("ab")
    assert packed["token_ids"].shape == (model.preprocessor.sequence_length,) == (20,)
    assert model.preprocessor.generate_postprocess(packed) == "ab"


def test_a_seq2seq_model_packs_both_sides(seq2seq: Any) -> None:
    """Texts for the encoder alone, or a dict of both."""
    packed = seq2seq.preprocessor.generate_preprocess(["abc", "d"], sequence_length=8)
    assert packed["encoder_token_ids"].shape == (2, 12) and packed["decoder_token_ids"].shape == (2, 8)
    both = seq2seq.preprocessor.generate_preprocess({"encoder_text": "abc", "decoder_text": "x"}, sequence_length=8)
    assert both["decoder_padding_mask"].tolist() == [True] * 3 + [False] * 5
    assert seq2seq.preprocessor.generate_postprocess(both) == "x"


def test_its_tokenizer(model: Any) -> None:
    """Ids of a text and back, nothing added and nothing left out."""
    tokenizer = model.preprocessor.tokenizer
    ids = tokenizer("ab")
    assert ids.dtype == np.int32 and tokenizer.detokenize(ids) == "ab"
    assert tokenizer(["ab", "c"]) == [ids.tolist(), tokenizer.tokenize("c").tolist()]
    assert tokenizer.detokenize(tokenizer(["ab", "c"])) == ["ab", "c"]
    assert tokenizer.id_to_token(int(ids[0])) == "a"


@pytest.mark.parametrize("wrong", [3, [1, 2], {"token_ids": [[1]]}])
def test_what_is_no_text_is_refused(model: Any, wrong: Any) -> None:
    """With what came."""
    with pytest.raises(InvalidInputError, match="text"):
        model.preprocessor.generate_preprocess(wrong)


def test_another_object_is_refused(model: Any) -> None:
    """An artifact brings its own."""
    with pytest.raises(InvalidInputError, match="KX529|preprocessor"):
        model.preprocessor = object()
