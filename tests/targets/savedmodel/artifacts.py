"""Emitted graphs, and their engine: what the tests of this folder share. TensorFlow comes in here, Keras does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.ir import Graph
from kexport.graphs.passes import optimise, run_passes
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.plain_tensorflow import tf
from kexport.targets import get
from kexport.targets.base import EmitOptions

from tests.seed_models import MAX_LENGTH, Golden, load_golden, padded

CAPACITY = 96


def emit(directory: Path, graphs: dict[str, Graph], weights: WeightSource, *, capacity: int = CAPACITY, **options: Any) -> Manifest:
    """Write the SavedModel; a manifest with the records that came back."""
    emitted = get("savedmodel").emit(graphs, weights, directory, EmitOptions(capacity, **options))
    return Manifest(
        producer=Producer(kexport="test"),
        source=Source(handle="toy", class_name="Toy"),
        task="seq2seq-lm" if "encode" in graphs else "causal-lm",
        target="savedmodel",
        signatures=emitted.signatures,
        cache=emitted.cache,
        files=emitted.files,
        experts=emitted.experts,
        ops=emitted.ops,
    )


def golden_artifact(name: str, directory: Path, **options: Any) -> tuple[Golden, Manifest]:
    """A golden model, optimised as the converter does, and written."""
    golden = load_golden(name)
    for graph in golden.graphs.values():
        if "logits" in graph.outputs:
            run_passes(graph, optimise())
    return golden, emit(directory, golden.graphs, golden.weights, **options)


def prompts_of(golden: Golden) -> dict[str, Any]:
    """`generate`'s inputs for the golden prompts, greedy, to the golden rows' full length."""
    ids, mask = padded(golden.model.prompts, max(map(len, golden.model.prompts)))
    given = sampling() | {"tokens": tf.constant(ids), "lengths": tf.constant(mask.sum(1), tf.int32)}
    given["max_new_tokens"] = tf.constant(MAX_LENGTH - min(map(len, golden.model.prompts)), tf.int32)
    if "encode" in golden.graphs:
        ids, mask = padded(golden.model.encoder_prompts, max(map(len, golden.model.encoder_prompts)))
        given |= {"encoder_tokens": tf.constant(ids), "encoder_mask": tf.constant(mask, tf.int32)}
    return given


def sampling(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0, stop: tuple[int, ...] = ()) -> dict[str, Any]:
    """`generate`'s inputs that say how to choose."""
    return {
        "temperature": tf.constant(temperature, tf.float32),
        "top_k": tf.constant(top_k, tf.int32),
        "top_p": tf.constant(top_p, tf.float32),
        "seed": tf.constant(seed, tf.int32),
        "stop_token_ids": tf.constant(np.array(stop, np.int32)),
    }
