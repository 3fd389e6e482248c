"""onnxruntime-genai on our ONNX artifact, unmodified."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals.base import Clock, Rival
from rivals.registry import register

STOP_MARGIN = 1  # a position more than is filled: it must not stop for want of room


@register("onnxruntime-genai")
class OnnxruntimeGenai(Rival):
    """Its token-by-token `Generator`, greedy search."""

    label = "onnxruntime-genai"
    runs_on = "onnx"
    libraries = ("onnxruntime_genai",)

    def import_libraries(self, target: str) -> None:
        self._library: Any = importlib.import_module("onnxruntime_genai")

    def load(self, place: Path, *, threads: int) -> None:
        config = self._library.Config(str(place))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = self._library.Model(config)

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        import numpy as np

        parameters = self._library.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(prompt) + new_tokens + STOP_MARGIN, do_sample=False)
        generator = self._library.Generator(self._model, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        tokens: list[int] = []
        while len(tokens) < new_tokens and not generator.is_done():
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            clock.tick()
        return tokens
