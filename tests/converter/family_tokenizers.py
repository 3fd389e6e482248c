"""Each text family's generative preprocessor over a tokenizer trained here, with the special tokens the family asks for. Calling it imports Keras.

    preprocessor("Qwen3CausalLM")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kexport.converter.keras_env import import_keras_hub

from tests.converter.tiny_models import SEQUENCE_LENGTH, byte_pair, gemma_pieces, mistral_pieces, sentence_piece

_CHAT = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
# How Tekken-like tokenizers cut text: another expression than that of all other byte-level families.
TEKKEN_PATTERN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# class -> the special tokens of its byte-level vocabulary.
BYTE_PAIR: dict[str, list[str]] = {
    "BartSeq2SeqLM": ["<s>", "<pad>", "</s>", "<mask>"],
    "BloomCausalLM": ["<unk>", "<s>", "</s>", "<pad>"],
    "FalconCausalLM": ["<|endoftext|>"],
    "GPT2CausalLM": ["<|endoftext|>"],
    "GPTNeoXCausalLM": ["<|endoftext|>"],
    "GptOssCausalLM": ["<|endoftext|>"],
    "Llama3CausalLM": ["<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "OPTCausalLM": ["<s>", "<pad>", "</s>"],
    "Qwen3CausalLM": _CHAT,
    "Qwen3MoeCausalLM": _CHAT,
    "Qwen3_5CausalLM": [*_CHAT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "Qwen3_5MoeCausalLM": [*_CHAT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "QwenCausalLM": ["<|endoftext|>"],
    "QwenMoeCausalLM": ["<|endoftext|>"],
    "SmolLM3CausalLM": ["<|begin_of_text|>", "<|end_of_text|>", "<think>", "</think>"],
}
_GEMMA_SYMBOLS = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<img>", "\n\n", "\u2581\u2581", "  "]
_GEMMA3N_SYMBOLS = [
    "<image_soft_token>", "<audio_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_audio>", "<end_of_audio>", "<start_of_turn>",
    "<end_of_turn>", "<mask>", "[multimodal]", "\n\n", "\u2581\u2581",
]  # fmt: skip
_GEMMA4_SYMBOLS = [
    "<|image|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>", "<|video|>", "<|turn>", "<turn|>", "\n\n", "\u2581\u2581",
]  # fmt: skip
# class -> its SentencePiece model.
PIECES: dict[str, Callable[[], bytes]] = {
    "Gemma3CausalLM": lambda: gemma_pieces(user_defined_symbols=_GEMMA_SYMBOLS),
    "Gemma3nCausalLM": lambda: gemma_pieces(user_defined_symbols=_GEMMA3N_SYMBOLS),
    "Gemma4CausalLM": lambda: gemma_pieces(user_defined_symbols=_GEMMA4_SYMBOLS),
    "GemmaCausalLM": gemma_pieces,
    "LlamaCausalLM": mistral_pieces,
    "MistralCausalLM": mistral_pieces,
    "MixtralCausalLM": mistral_pieces,
    "Phi3CausalLM": lambda: mistral_pieces(user_defined_symbols=["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"]),
    "T5Gemma2Seq2SeqLM": gemma_pieces,
    "T5GemmaSeq2SeqLM": gemma_pieces,
    "T5Seq2SeqLM": lambda: sentence_piece(
        model_type="unigram", vocab_size=320, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
        normalization_rule_name="nmt_nfkc", character_coverage=0.999,
    ),
}  # fmt: skip
CLASSES = sorted([*BYTE_PAIR, *PIECES, "tekken"])


def preprocessor(class_name: str) -> Any:
    """The stock preprocessor; "tekken" is Mistral's with its byte-level tokenizer."""
    models = import_keras_hub().models
    if class_name == "tekken":
        tokenizer = models.MistralTekkenTokenizer(**byte_pair(["<s>", "</s>"]), split_pattern=TEKKEN_PATTERN)
        return models.MistralCausalLMPreprocessor(tokenizer, sequence_length=SEQUENCE_LENGTH)
    cls = getattr(models, f"{class_name}Preprocessor")
    if class_name in BYTE_PAIR:
        tokenizer = cls.tokenizer_cls(**byte_pair(BYTE_PAIR[class_name]))
    else:
        tokenizer = cls.tokenizer_cls(proto=PIECES[class_name]())
    if class_name.endswith("Seq2SeqLM"):
        return cls(tokenizer, encoder_sequence_length=SEQUENCE_LENGTH, decoder_sequence_length=16)
    without_images = {"image_converter": None} if class_name.startswith(("Gemma3", "Gemma4")) else {}
    return cls(tokenizer=tokenizer, sequence_length=SEQUENCE_LENGTH, **without_images)
