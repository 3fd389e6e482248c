"""Plain TensorFlow calling the SavedModel's own `generate`: the loop inside the graph, as TensorFlow Serving and the C API run it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals.base import Clock, Rival
from rivals.registry import register


@register("tensorflow-generate")
class TensorflowGenerate(Rival):
    """The signature `generate` of the artifact, at temperature 0 and without stop ids."""

    label = "TensorFlow, in-graph generate"
    runs_on = "savedmodel"
    streams = False
    libraries = ("tensorflow",)
    remark = "no streaming: time per token is (a run of all new tokens - a run of one) / (new tokens - 1); first token = a run of one"

    def import_libraries(self, target: str) -> None:
        self._library: Any = importlib.import_module("tensorflow")

    def load(self, place: Path, *, threads: int) -> None:
        self._library.config.threading.set_intra_op_parallelism_threads(threads)
        self._library.config.threading.set_inter_op_parallelism_threads(threads)
        self._model = self._library.saved_model.load(str(place))
        self._generate = self._model.signatures["generate"]

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        integers, constant = self._library.int32, self._library.constant
        result = self._generate(
            tokens=constant([list(prompt)], integers),
            lengths=constant([len(prompt)], integers),
            max_new_tokens=constant(new_tokens, integers),
            temperature=constant(0.0),
            top_k=constant(0, integers),
            top_p=constant(1.0),
            seed=constant(0, integers),
            stop_token_ids=constant([], integers),
        )
        return [int(token) for token in result["token_ids"].numpy()[0, len(prompt) : len(prompt) + new_tokens]]
