"""The first model of the zoo of each class, with a tokenizer trained here and over its vocabulary; the other models as they stand. No Keras at import.

    task = build("qwen3")
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.converter.family_tokenizers import CLASSES, preprocessor
from tests.converter.printable_rwkv7 import printable_rwkv7
from tests.zoo import ZOO

VOCABULARY_SIZES = {"vocabulary_size", "text_vocab_size", "vocab_size_per_layer_input"}  # what families call it
RWKV7 = "rwkv7"


def _first_of_classes() -> tuple[str, ...]:
    found: dict[str, str] = {}
    for name in ZOO:
        found.setdefault(class_of(name), name)
    return tuple(name for cls, name in found.items() if cls in CLASSES or name == RWKV7)


def class_of(name: str) -> str:
    """The stock class of a model of the zoo."""
    return f"{ZOO[name].prefix}{ZOO[name].task}"


SPEAKING = _first_of_classes()
# Where a model's own numbers give rows that repeat themselves over the larger vocabulary.
NUMBERS: dict[str, dict[str, Any]] = {"falcon": {"spread": 0.3, "seed": 5}, "t5": {"seed": 9}}


def build(name: str) -> Any:
    """The model, with its preprocessor if it is one of `SPEAKING`."""
    variant = ZOO[name]
    if name == RWKV7:
        return printable_rwkv7()
    if name not in SPEAKING:
        return variant.build()
    text = preprocessor(class_of(name))
    sizes = dict.fromkeys(VOCABULARY_SIZES & set(variant.config), text.tokenizer.vocabulary_size())
    task = replace(variant, config={**variant.config, **sizes}, **NUMBERS.get(name, {})).build()
    task.preprocessor = text
    return task
