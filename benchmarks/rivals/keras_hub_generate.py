"""KerasHub's own `generate()`: on the TensorFlow backend, as a graph, and compiled by XLA."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals.base import PRESET, Clock, Rival
from rivals.registry import register


class KerasHubGenerate(Rival):
    """The greedy `generate()` of the stock task class."""

    runs_on = PRESET
    streams = False
    libraries = ("keras", "keras_hub", "tensorflow")
    remark = (
        "no streaming: time per token is (a run of all new tokens - a run of one) / (new tokens - 1); first token = a run of one; "
        "it always prefills the whole buffer, prompt and new tokens"
    )

    def __init__(self, label: str, *, jit: bool) -> None:
        self.label = label
        self._jit = jit

    def import_libraries(self, target: str) -> None:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        self._tensorflow: Any = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        self._library: Any = importlib.import_module("keras_hub")

    def load(self, place: Path, *, threads: int) -> None:
        self._tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        self._tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        self._task = self._library.models.CausalLM.from_preset(str(place), dtype="float32", preprocessor=None)
        self._task.compile(sampler="greedy", jit_compile=self._jit)

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        """The buffer is always `length` long, so that all runs are of one compiled function."""
        import numpy as np

        ids = np.zeros((1, length), np.int32)
        filled = length - new_tokens
        ids[0, :filled] = np.resize(prompt, filled)  # the prompt again where fewer tokens are asked for
        mask = np.arange(length)[None] < filled
        result = self._task.generate({"token_ids": ids, "padding_mask": mask.astype(np.int32)}, stop_token_ids=None)
        return [int(token) for token in np.asarray(result["token_ids"])[0, filled:]]


@register("keras-hub-generate")
def _graph() -> KerasHubGenerate:
    return KerasHubGenerate("KerasHub generate()", jit=False)


@register("keras-hub-generate-jit")
def _jit() -> KerasHubGenerate:
    return KerasHubGenerate("KerasHub generate(), XLA", jit=True)
