"""Preset-like folders written by hand, so that the cheap checks are tested without Keras."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VOCABULARY_SIZE, HIDDEN = 12, 4
LAYERS = 2
TOKENS = ["<unk>", "<s>", "</s>", "<pad>", *"abcdefgh"]
SHAPES = {
    "layers/reversible_embedding/vars/0": (VOCABULARY_SIZE, HIDDEN),
    "layers/bloom_decoder/dense/vars/0": (HIDDEN, HIDDEN),
    "layers/bloom_decoder_1/dense/vars/0": (HIDDEN, HIDDEN),
}


def serialized(class_name: str, config: dict[str, Any], module: str = "keras_hub.src.models.bloom") -> dict[str, Any]:
    """A Keras object as save_to_preset writes it."""
    return {"module": module, "class_name": class_name, "config": config, "registered_name": f"keras_hub>{class_name}"}


def backbone_config() -> dict[str, Any]:
    """The serialized backbone that `write_preset` writes."""
    dtype = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    sizes = {"vocabulary_size": VOCABULARY_SIZE, "num_layers": LAYERS, "num_heads": 2, "hidden_dim": HIDDEN, "intermediate_dim": 8}
    return serialized("BloomBackbone", {"name": "bloom_backbone", "trainable": True, "dtype": dtype, **sizes})


def write_preset(directory: Path) -> Path:
    """A whole little Bloom preset: configs, byte-pair assets and an h5 file with the tensors of SHAPES."""
    tokenizer = serialized("BloomTokenizer", {"name": "tokenizer", "config_file": "tokenizer.json", "sequence_length": None})
    preprocessor = serialized(
        "BloomCausalLMPreprocessor", {"tokenizer": tokenizer, "config_file": "preprocessor.json", "sequence_length": 16}
    )
    task = serialized("BloomCausalLM", {"backbone": backbone_config(), "preprocessor": preprocessor, "name": "bloom_causal_lm"})
    assets = directory / "assets" / "tokenizer"
    assets.mkdir(parents=True)
    write_json(directory / "config.json", backbone_config())
    write_json(directory / "task.json", task)
    write_json(directory / "preprocessor.json", preprocessor)
    write_json(directory / "tokenizer.json", tokenizer)
    count = sum(math.prod(shape) for shape in SHAPES.values())
    write_json(directory / "metadata.json", {"parameter_count": count, "tasks": ["CausalLM"]})
    write_json(assets / "vocabulary.json", {token: index for index, token in enumerate(TOKENS)})
    (assets / "merges.txt").write_text("")
    write_weights(directory / "model.weights.h5")
    return directory


def write_weights(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: str = "float32") -> None:
    """An h5 file with one dataset per entry of `shapes`."""
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name, data=np.ones(shape, dtype))


def write_json(path: Path, document: Any) -> None:
    """`document` as JSON."""
    path.write_text(json.dumps(document))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Reads the JSON file, lets `change` alter it, writes it back."""
    document = json.loads(path.read_text())
    change(document)
    write_json(path, document)
