"""Models with adapters: live ones convert as they stand, files of `save_lora_weights` are merged or kept apart, and wrong files are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert

from tests.seed_models import DISTINCT, MODELS, NEW_TOKENS

pytestmark = pytest.mark.slow
SEEDS = ["gemma", "bart"]


def says(directory: Path, name: str, adapter: str | None = None) -> list[list[int]]:
    """64 greedy tokens of the artifact for the seed model's prompts."""
    from tests.stock_models import inputs_of

    with runtime.load(directory, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler="greedy")
        if adapter is not None:
            model.set_adapter(adapter)
        outputs = model.generate(inputs_of(MODELS[name]), stop_token_ids=None)
    rows: list[list[int]] = outputs["decoder_token_ids" if "decoder_token_ids" in outputs else "token_ids"].tolist()
    return rows


def state(task: Any) -> dict[str, Any]:
    """What a conversion must leave alone."""
    return {
        "numbers": {variable.path: np.array(variable.value) for variable in task.variables},
        "trainable": {variable.path: variable.trainable for variable in task.weights},
        "layers": [(layer._trainable, getattr(layer, "lora_enabled", None), sorted(vars(layer))) for layer in task._flatten_layers()],
        "sampler": task.sampler,
        "function": task.generate_function,
    }


def assert_left_as_found(task: Any, before: dict[str, Any]) -> None:
    """The task is in the state `before`."""
    after = state(task)
    assert after.keys() == before.keys() and after["numbers"].keys() == before["numbers"].keys()
    assert all(np.array_equal(after["numbers"][path], numbers) for path, numbers in before["numbers"].items())
    assert all(after[key] == before[key] for key in before if key != "numbers")


# ---- live models


@pytest.mark.parametrize("name", SEEDS)
def test_a_live_model_with_lora_converts_as_it_stands(name: str, tmp_path: Path) -> None:
    """Its artifact says what the live object says, has no operators for adapters, and the object is left as found."""
    from tests.converter.lora_models import adapted, tokens
    from tests.stock_models import build

    task = adapted(name)
    expected, before = tokens(task, MODELS[name]), state(task)
    assert expected != tokens(build(MODELS[name]), MODELS[name])
    assert all(len(set(row[-NEW_TOKENS:])) >= DISTINCT for row in expected)
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert says(tmp_path / "out", name) == expected
    assert_left_as_found(task, before)
    base = convert(build(MODELS[name]), output=tmp_path / "base", max_length=96, verify="none")
    assert made.manifest.ops == base.manifest.ops


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_model_just_fitted_converts_as_it_stands(with_lora: bool, tmp_path: Path) -> None:
    """After `fit()` the object holds an optimizer, metrics and compiled functions; its artifact says what it says."""
    import keras

    from tests.converter.lora_models import fill_adapter, tokens
    from tests.stock_models import build, inputs_of

    model = MODELS["gemma"]
    task = build(model)
    untrained = tokens(task, model)
    if with_lora:
        task.backbone.enable_lora(4)
        fill_adapter(task, 0)
    task.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.01),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    inputs = inputs_of(model)
    task.fit(inputs, np.roll(inputs["token_ids"], -1, axis=1), batch_size=2, epochs=1, verbose=0)
    expected, before = tokens(task, model), state(task)
    assert expected != untrained
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert says(tmp_path / "out", "gemma") == expected
    assert_left_as_found(task, before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_storage_rounds_the_merged_weights(dtype: str, tmp_path: Path) -> None:
    """What is stored is the rounded sum of kernel and update, and the live object is the oracle over these sums."""
    from tests.converter.lora_models import adapted

    task = adapted("gemma")
    before = state(task)
    made = convert(task, output=tmp_path / "out", max_length=96, dtype=dtype)
    assert made.manifest.parity.verdict == "proven"
    assert_left_as_found(task, before)
