"""A small RWKV-7 with a tokenizer, whose texts KerasHub can print: it raises where a character is broken, so this model gives ASCII only."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtime import longest_match_vocabulary as vocabulary
from tests.zoo.recurrent import VARIANTS

SEQUENCE_LENGTH = 20
FORBIDDEN = -30.0  # what the head adds to ids whose bytes are no character of their own


def printable_rwkv7() -> Any:
    """The task, greedy."""
    import keras_hub

    config = VARIANTS["rwkv7"].config | {"vocabulary_size": len(vocabulary.TOKENS) + 2}
    task = type(VARIANTS["rwkv7"])("rwkv7", "RWKV7", config, seed=3).build()
    task.preprocessor = keras_hub.models.RWKV7CausalLMPreprocessor(
        keras_hub.models.RWKVTokenizer(vocabulary.lines()), sequence_length=SEQUENCE_LENGTH
    )
    backbone = task.backbone
    printable = [False, *(token.isascii() and token.decode("ascii", "ignore").isprintable() for token in vocabulary.TOKENS), False]
    scale, shift = (weight.numpy() for weight in backbone.output_layer_norm.weights)
    scale[0], shift[0] = 0.0, 1.0  # one channel of the head's input is 1
    backbone.output_layer_norm.set_weights([scale, shift])
    (head,) = backbone.head.get_weights()
    head[0] = np.where(printable, 0.0, FORBIDDEN)
    backbone.head.set_weights([head])
    task.compile(sampler="greedy")
    return task
