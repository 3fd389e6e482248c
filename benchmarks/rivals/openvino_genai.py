"""openvino_genai's `LLMPipeline` on our OpenVINO artifact, unmodified: as exact as we are, and as it comes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rivals.base import Clock, Rival
from rivals.registry import register


class OpenvinoGenai(Rival):
    """The pipeline with these properties. Ticks come from its streamer, which is called on a thread of its own."""

    runs_on = "openvino"
    libraries = ("openvino", "openvino_genai")

    def __init__(self, label: str, properties: Mapping[str, str], remark: str) -> None:
        self.label, self.remark = label, remark
        self._properties = properties

    def import_libraries(self, target: str) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._library: Any = importlib.import_module("openvino_genai")

    def load(self, place: Path, *, threads: int) -> None:
        self._pipeline = self._library.LLMPipeline(str(place), "CPU", INFERENCE_NUM_THREADS=threads, **self._properties)

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        import numpy as np

        tensor = self._openvino.Tensor
        inputs = self._library.TokenizedInputs(tensor(np.array([prompt], np.int64)), tensor(np.ones((1, len(prompt)), np.int64)))
        config = self._pipeline.get_generation_config()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        result = self._pipeline.generate(inputs, config, self._streamer(clock))
        return [int(token) for token in result.tokens[0]]

    def _streamer(self, clock: Clock) -> Any:
        library = self._library

        class Ticking(library.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: Any) -> Any:
                for _ in token if isinstance(token, list) else [token]:
                    clock.tick()
                return library.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        return Ticking()


@register("openvino-genai-sdpa-f32")
def _exact() -> OpenvinoGenai:
    properties = {"ATTENTION_BACKEND": "SDPA", "KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32"}
    return OpenvinoGenai("openvino-genai, SDPA, f32", properties, "stateful SDPA backend, f32 cache and arithmetic: what our engine does too")


@register("openvino-genai-default")
def _default() -> OpenvinoGenai:
    return OpenvinoGenai("openvino-genai, default", {}, "no property set but the threads: the backend and the precisions are the library's choice")
