"""Seed models with adapters that change what they say. Importing this file imports Keras: slow tests only."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.capture.lora import lora_layers
from kexport.graphs.capture.names import ParameterNames

from tests.seed_models import MODELS, SeedModel
from tests.stock_models import build, inputs_of

RANK = 4
# Seeds whose adapted models speak with clear margins; `test_lora.py` checks that they do.
ADAPTER_SEEDS = {"gemma": 0, "bart": 0, "mistral": 0}


def adapted(name: str, rank: int = RANK, targets: list[str] | None = None) -> Any:
    """The seed model with a LoRA of `rank` whose factors are random numbers, b included."""
    task = build(MODELS[name])
    task.backbone.enable_lora(rank, target_layer_names=targets)
    fill_adapter(task, ADAPTER_SEEDS.get(name, 0))
    return task


def fill_adapter(task: Any, seed: int, width: float = 0.4) -> None:
    """Random factors, fixed by the variables' names and the seed."""
    names = ParameterNames(task.variables)
    for layer in lora_layers(task):
        for variable in (layer.lora_kernel_a, layer.lora_kernel_b):
            generator = np.random.default_rng([zlib.crc32(names.of(variable).encode()), seed])
            variable.assign(width * generator.standard_normal(tuple(variable.shape)).astype(np.float32))


def save_adapter(name: str, path: Path, rank: int = RANK, targets: list[str] | None = None) -> Path:
    """The adapter of `adapted(name)` as KerasHub saves it."""
    adapted(name, rank, targets).backbone.save_lora_weights(str(path))
    return path


def tokens(task: Any, model: SeedModel) -> list[list[int]]:
    """KerasHub's public `generate()`, greedy, the task left as found."""
    import keras_hub

    found = (task.sampler, task.generate_function)
    task.sampler, task.generate_function = keras_hub.samplers.GreedySampler(), None
    try:
        outputs = task.generate(inputs_of(model), stop_token_ids=None)
    finally:
        task.sampler, task.generate_function = found
    key = "decoder_token_ids" if "decoder_token_ids" in outputs else "token_ids"
    rows: list[list[int]] = np.asarray(outputs[key]).tolist()
    return rows
