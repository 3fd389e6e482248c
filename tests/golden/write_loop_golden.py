"""Write loops.json: what KerasHub's own samplers make of a batch, run on an engine whose logits are a table of histories.

    python tests/golden/write_loop_golden.py

The sampler objects run their own loop (`Sampler.__call__`), eagerly, with the logits of tests/runtime/counting_engine.py: this holds our loop to
KerasHub's code, not to our reading of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, str(Path(__file__).parents[2]))

import keras_hub
import numpy as np
import tensorflow as tf

from tests.runtime.counting_engine import VOCABULARY, logits_of

OUTPUT = Path(__file__).with_name("loops.json")
THREADS = 2
PAD = 0
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("GreedySampler", {}),
    ("RandomSampler", {"seed": 5}),
    ("TopKSampler", {"seed": 6, "k": 3}),
    ("TopPSampler", {"seed": 7, "p": 0.8}),
    ("BeamSampler", {"num_beams": 3}),
    ("BeamSampler", {"num_beams": 1}),
    ("BeamSampler", {"num_beams": 5, "temperature": 2.0}),
]
BATCHES: list[tuple[list[list[int]], int, list[int] | None]] = [
    ([[3, 4, 5]], 12, None),
    ([[3], [4, 5, 6, 7, 8], [9, 10]], 14, None),
    ([[3], [4, 5, 6, 7, 8], [9, 10]], 14, [11, 12, 13, 20, 21, 22, 23, 30]),
    ([[3, 11], [4, 5, 11, 7]], 20, [11, 26, 31, 39]),
    ([[8, 9], [7]], 9, [PAD]),
    ([[8, 9, 2], [7, 6, 5]], 3, [9]),
]


def run(sampler: Any, rows: list[list[int]], length: int, stop_ids: list[int] | None) -> list[list[int]]:
    """The ids that the sampler's own loop leaves."""
    ids, mask = np.full((len(rows), length), PAD, np.int32), np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True

    def step(prompt: Any, cache: Any, index: Any) -> Any:
        logits = np.stack([logits_of(row[: int(index)].tolist()) for row in prompt.numpy()])
        return tf.constant(logits), None, cache

    start = tf.constant(min(len(row) for row in rows))
    return (
        sampler(next=step, prompt=tf.constant(ids), cache=None, index=start, mask=tf.constant(mask), stop_token_ids=stop_ids)
        .numpy()
        .tolist()
    )


def main() -> None:
    """Write the file: each sampler object runs twice, because its seed goes on."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    cases = []
    for class_name, config in SAMPLERS:
        for rows, length, stop_ids in BATCHES:
            sampler = getattr(keras_hub.samplers, class_name)(**config)
            outputs = [run(sampler, rows, length, stop_ids) for _ in range(2)]
            cases.append(
                {"sampler": class_name, "config": config, "rows": rows, "length": length, "stop_ids": stop_ids, "outputs": outputs}
            )
    document = {
        "keras_hub": keras_hub.__version__,
        "tensorflow": tf.__version__,
        "threads": THREADS,
        "vocabulary": VOCABULARY,
        "cases": cases,
    }
    OUTPUT.write_text(json.dumps(document) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
