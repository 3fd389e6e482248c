"""What the reproducers of this folder share: KerasHub with small random weights, and its own loop beside its uncached forward."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import keras_hub
import numpy as np

VOCABULARY = 64
ROTARY = {
    "vocabulary_size": VOCABULARY, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48,
}  # fmt: skip
GEMMA3_OF_TEXTS = ROTARY | {"image_size": 16, "head_dim": 8, "vision_encoder": None}


def task(prefix: str, config: dict[str, Any]) -> Any:
    """A CausalLM of random weights that are far from each other, without a preprocessor."""
    keras.utils.set_random_seed(0)
    model = getattr(keras_hub.models, f"{prefix}CausalLM")(backbone=getattr(keras_hub.models, f"{prefix}Backbone")(**config), preprocessor=None)
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) > 1 and "float" in str(variable.dtype):
            variable.assign(generator.normal(0, 0.4, variable.shape).astype("float32"))
    return model


def rows(*prompts: list[int], length: int = 16) -> dict[str, Any]:
    """Padded ids and their mask, as generate() takes them without a preprocessor."""
    ids, mask = np.zeros((len(prompts), length), "int32"), np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
    return {"token_ids": ids, "padding_mask": mask}


def greedy_by_forward(model: Any, inputs: dict[str, Any]) -> Any:
    """Greedy tokens by the uncached forward, a call over the whole rows for each column."""
    ids, mask = inputs["token_ids"].copy(), inputs["padding_mask"]
    for column in range(int(mask.sum(axis=1).min()), ids.shape[1]):
        feeds = {"token_ids": ids[:, :column], "padding_mask": np.ones((len(ids), column), bool)}
        best = np.asarray(model(feeds))[:, -1].argmax(axis=-1)
        ids[:, column] = np.where(mask[:, column], ids[:, column], best)
    return ids


def compare(model: Any, inputs: dict[str, Any]) -> None:
    """Print what generate() and the uncached forward give."""
    model.compile(sampler="greedy")
    cached = np.asarray(model.generate(dict(inputs), stop_token_ids=None)["token_ids"])
    uncached = greedy_by_forward(model, inputs)
    print("generate()        ", cached[0].tolist())
    print("uncached forward  ", uncached[0].tolist())
    print("WRONG: they differ" if (cached != uncached).any() else "right: they are equal")
