"""The seed models as stock KerasHub tasks. Importing this file imports Keras and TensorFlow: slow tests and golden scripts only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.names import parameter_name

from tests.seed_models import MAX_LENGTH, SeedModel, padded

_MODELS = keras_hub.models
FAMILIES: dict[str, tuple[Any, Any]] = {
    "mistral": (_MODELS.MistralBackbone, _MODELS.MistralCausalLM),
    "gemma": (_MODELS.GemmaBackbone, _MODELS.GemmaCausalLM),
    "bloom": (_MODELS.BloomBackbone, _MODELS.BloomCausalLM),
    "bart": (_MODELS.BartBackbone, _MODELS.BartSeq2SeqLM),
}


def build(model: SeedModel) -> Any:
    """The stock task with the model's numbers; loaded from a preset in the stored dtype where that is not float32."""
    task = bare(model)
    fill(task, model)
    if model.stored_dtype == "float32":
        return task
    with tempfile.TemporaryDirectory() as folder:
        save_preset(model, folder)
        return type(task).from_preset(folder, preprocessor=None)


def bare(model: SeedModel, dtype: str = "float32") -> Any:
    """The stock task with initial weights."""
    backbone, task = FAMILIES[model.family]
    return task(backbone=backbone(**model.config, dtype=dtype), preprocessor=None)


def save_preset(model: SeedModel, folder: str | Path, **options: Any) -> None:
    """The model as a preset in its stored dtype."""
    task = bare(model, model.stored_dtype)
    fill(task, model)
    task.save_to_preset(str(folder), **options)


def float_variables(task: Any) -> list[Any]:
    """The variables that are numbers of the model."""
    return [variable for variable in task.variables if keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype))]


def fill(task: Any, model: SeedModel) -> None:
    """Give every variable the model's numbers."""
    for variable in float_variables(task):
        variable.assign(model.number_array(parameter_name(variable), tuple(variable.shape)))


def inputs_of(model: SeedModel) -> dict[str, Any]:
    """What `generate()` takes without a preprocessor: padded prompts and masks."""
    ids, mask = padded(model.prompts, MAX_LENGTH)
    if model.family != "bart":
        return {"token_ids": ids, "padding_mask": mask}
    encoder_ids, encoder_mask = padded(model.encoder_prompts, max(map(len, model.encoder_prompts)))
    return {
        "encoder_token_ids": encoder_ids, "encoder_padding_mask": encoder_mask, "decoder_token_ids": ids, "decoder_padding_mask": mask,
    }  # fmt: skip


def generate(task: Any, model: SeedModel, stop_token_ids: list[int] | None) -> tuple[Any, Any]:
    """KerasHub's public `generate()`, greedy: token ids and mask [rows, MAX_LENGTH]."""
    task.compile(sampler="greedy")
    outputs = task.generate(inputs_of(model), stop_token_ids=stop_token_ids)
    prefix = "decoder_" if "decoder_token_ids" in outputs else ""
    return np.asarray(outputs[f"{prefix}token_ids"]), np.asarray(outputs[f"{prefix}padding_mask"]).astype(bool)


def logits_of(task: Any, model: SeedModel, tokens: Any) -> Any:
    """The original's logits [rows, length, vocabulary] over whole rows, by the method that `generate()` calls."""
    ids = tf.constant(np.asarray(tokens, np.int32))
    rows, length = ids.shape
    backbone = task.backbone
    if model.family != "bart":
        heads = getattr(backbone, "num_key_value_heads", None) or backbone.num_heads
        cache = tf.zeros([rows, backbone.num_layers, 2, length, heads, head_dim(model)])
        return np.asarray(task.call_with_cache(ids, cache, 0)[0])
    encoder = inputs_of(model)
    hidden = task.call_encoder(tf.constant(encoder["encoder_token_ids"]), tf.constant(encoder["encoder_padding_mask"]))
    width = encoder["encoder_token_ids"].shape[1]
    caches = [tf.zeros([rows, backbone.num_layers, 2, size, backbone.num_heads, head_dim(model)]) for size in (length, width)]
    return np.asarray(
        task.call_decoder_with_cache(hidden, tf.constant(encoder["encoder_padding_mask"]), ids, caches[0], 0, caches[1], 0)[0]
    )


def head_dim(model: SeedModel) -> int:
    """The size of one head."""
    heads = model.config.get("num_query_heads") or model.config["num_heads"]
    return int(model.config.get("head_dim") or model.config["hidden_dim"] // heads)
