"""Write samplers.json: what KerasHub's own samplers pick, under TensorFlow's CPU kernels and under XLA.

    python tests/golden/write_sampler_golden.py

Logits are not stored: they come from numpy's RandomState, whose numbers are frozen. Run with TensorFlow's default CPU build; the number of
threads is set here, because KerasHub's draws for more than one row depend on it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras_hub
import numpy as np
import tensorflow as tf

OUTPUT = Path(__file__).with_name("samplers.json")
THREADS = 2
STEPS = 6
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("GreedySampler", {"temperature": 0.7}),
    ("RandomSampler", {"seed": 123, "temperature": 0.8}),
    ("RandomSampler", {"seed": 2**40 + 7}),
    ("TopKSampler", {"k": 5, "seed": 42}),
    ("TopKSampler", {"k": 1, "seed": 9}),
    ("TopKSampler", {"k": 17, "seed": 3, "temperature": 1.5}),
    ("TopPSampler", {"seed": 77}),
    ("TopPSampler", {"p": 0.9, "seed": 5}),
    ("TopPSampler", {"p": 0.95, "k": 8, "seed": 6}),
    ("TopPSampler", {"p": 0.0, "seed": 6}),
]
SHAPES = [(1, 64), (3, 64), (5, 1000), (9, 5000), (2, 50257)]
ORDERS = [(64, 3), (64, 5), (64, 63), (64, 64), (1000, 5), (1000, 40), (50257, 5), (7, 6)]


def logits_of(seed: int, batch_size: int, vocabulary: int) -> Any:
    """The logits of one step, [batch, vocabulary] float32; the test makes the same."""
    return (np.random.RandomState(seed).standard_normal((batch_size, vocabulary)) * 2).astype(np.float32)


def picks(class_name: str, config: dict[str, Any], batch_size: int, vocabulary: int, jit: bool) -> list[list[int]]:
    """Tokens [steps, batch] of successive draws of one sampler object."""
    sampler = getattr(keras_hub.samplers, class_name)(**config)

    @tf.function(jit_compile=jit)
    def pick(logits: Any) -> Any:
        return sampler.get_next_token(sampler.compute_probabilities(logits))

    return [pick(tf.constant(logits_of(step, batch_size, vocabulary))).numpy().tolist() for step in range(STEPS)]


def main() -> None:
    """Write the file."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    cases = []
    for mode in ("tf_cpu", "xla"):
        for batch_size, vocabulary in SHAPES:
            for class_name, config in SAMPLERS:
                tokens = picks(class_name, config, batch_size, vocabulary, jit=mode == "xla")
                cases.append(
                    {"sampler": class_name, "config": config, "mode": mode, "batch_size": batch_size, "vocabulary": vocabulary, "tokens": tokens}
                )  # fmt: skip
    orders = []
    for vocabulary, count in ORDERS:
        for seed in range(STEPS):
            probabilities = tf.nn.softmax(logits_of(seed, 1, vocabulary))
            ids = tf.math.top_k(probabilities, count, sorted=False).indices.numpy()[0].tolist()
            orders.append({"vocabulary": vocabulary, "count": count, "seed": seed, "ids": ids})
    document = {"keras_hub": keras_hub.__version__, "tensorflow": tf.__version__, "threads": THREADS, "cases": cases, "orders": orders}
    OUTPUT.write_text(json.dumps(document) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
