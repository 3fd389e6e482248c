"""Tiny presets with trained tokenizers, for the slow tests of sources and tokenizers. Importing this file imports Keras."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from kexport.converter.keras_env import import_keras_hub
from kexport.converter.tokenizers.proof_strings import HARD, ORDINARY

SEQUENCE_LENGTH = 32
_CORPUS = [text for text in (*ORDINARY, *HARD) if "\x00" not in text] * 5
_BYTE_PAIR_SIZE = 700
_PIECES = 900


def byte_pair(special_tokens: list[str]) -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE, the special tokens at the end."""
    trainer = tokenizers.ByteLevelBPETokenizer()
    trainer.train_from_iterator(_CORPUS, vocab_size=_BYTE_PAIR_SIZE, min_frequency=2)
    model = json.loads(trainer._tokenizer.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for token in special_tokens:
        vocabulary.setdefault(token, len(vocabulary))
    return {"vocabulary": vocabulary, "merges": [" ".join(merge) for merge in model["merges"]]}


def sentence_piece(**options: Any) -> bytes:
    """A SentencePiece model trained on the corpus."""
    writer = io.BytesIO()
    lines = iter([text for text in _CORPUS if text])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=writer, minloglevel=2, **options)
    return writer.getvalue()


def gemma_pieces(**options: Any) -> bytes:
    """Like Gemma's: byte fallback, no dummy prefix, white space and turn markers as user-defined symbols."""
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "bos_piece": "<bos>", "eos_piece": "<eos>"}
    defaults = {
        "model_type": "bpe",
        "vocab_size": _PIECES,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581\u2581", "  "],
    }
    return sentence_piece(**{**ids, **defaults, **options})


def mistral_pieces(**options: Any) -> bytes:
    """Like Mistral's and Llama 2's: byte fallback, dummy prefix, no padding id."""
    defaults = {
        "model_type": "bpe",
        "vocab_size": _PIECES,
        "pad_id": -1,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    }
    return sentence_piece(**{**defaults, **options})


def preprocessor(family: str, **pieces: Any) -> Any:
    """The family's generative preprocessor over a tokenizer trained here."""
    models = import_keras_hub().models
    if family == "bloom":
        return models.BloomCausalLMPreprocessor(
            models.BloomTokenizer(**byte_pair(["<unk>", "<s>", "</s>", "<pad>"])), sequence_length=SEQUENCE_LENGTH
        )
    if family == "bart":
        tokenizer = models.BartTokenizer(**byte_pair(["<s>", "<pad>", "</s>", "<mask>"]))
        return models.BartSeq2SeqLMPreprocessor(tokenizer, encoder_sequence_length=SEQUENCE_LENGTH, decoder_sequence_length=16)
    if family == "llama3":
        special = ["<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        return models.Llama3CausalLMPreprocessor(models.Llama3Tokenizer(**byte_pair(special)), sequence_length=SEQUENCE_LENGTH)
    if family == "mistral":
        return models.MistralCausalLMPreprocessor(models.MistralTokenizer(proto=mistral_pieces(**pieces)), sequence_length=SEQUENCE_LENGTH)
    return models.GemmaCausalLMPreprocessor(models.GemmaTokenizer(proto=gemma_pieces(**pieces)), sequence_length=SEQUENCE_LENGTH)


def bloom(num_layers: int = 2) -> Any:
    """A two-layer Bloom task with a trained tokenizer."""
    models = import_keras_hub().models
    text = preprocessor("bloom")
    backbone = models.BloomBackbone(
        vocabulary_size=text.tokenizer.vocabulary_size(), num_layers=num_layers, num_heads=2, hidden_dim=16, intermediate_dim=32
    )
    return models.BloomCausalLM(backbone, text)


def bart() -> Any:
    """A one-layer Bart task with a trained tokenizer."""
    models = import_keras_hub().models
    text = preprocessor("bart")
    backbone = models.BartBackbone(
        vocabulary_size=text.tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=1024,
    )
    return models.BartSeq2SeqLM(backbone, text)


def save_preset(task: Any, directory: Path, **options: Any) -> Path:
    """`task.save_to_preset`, and the directory."""
    task.save_to_preset(str(directory), **options)
    return directory


def gemma() -> Any:
    """A two-layer Gemma task with a trained tokenizer."""
    models = import_keras_hub().models
    text = preprocessor("gemma")
    backbone = models.GemmaBackbone(
        vocabulary_size=text.tokenizer.vocabulary_size(),
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=64,
        head_dim=8,
    )
    return models.GemmaCausalLM(backbone, text)
