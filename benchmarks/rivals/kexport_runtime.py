"""Our own runtime: the generation loop of `generate()`, on an artifact of any target."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals.base import Clock, Rival
from rivals.registry import register

OURS = "kexport"


@register(OURS)
class KexportRuntime(Rival):
    """`kexport.runtime` with the greedy sampler and no stop id."""

    label = "kexport"
    runs_on = None

    def import_libraries(self, target: str) -> None:
        importlib.import_module("kexport.runtime")
        importlib.import_module(f"kexport.runtime.engines.{target}")

    def load(self, place: Path, *, threads: int) -> None:
        from kexport import runtime

        self._model = runtime.load(place, preprocessor=None, threads=threads, allow_unverified=True)
        self._model.compile("greedy")

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        import numpy as np
        from kexport.runtime.generation import IndependentRows, Job
        from kexport.runtime.prompts import Prompt

        ids: Any = np.zeros((1, len(prompt) + new_tokens), np.int32)
        ids[0, : len(prompt)] = prompt
        mask = np.arange(ids.shape[1])[None] < len(prompt)
        loop = IndependentRows(self._model.engine, self._model.sampler, Job(Prompt(ids, mask)))
        for _ in loop.steps():
            clock.tick()
        return [int(token) for token in loop.result().ids[0, len(prompt) :]]

    def close(self) -> None:
        self._model.close()
