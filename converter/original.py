"""The original as the capture and the writer need it: a stock task, and where its weight bytes come from.

A live object is used as it is. Anything else is built without weights, and its stock loader is recorded (graphs/capture/recorded.py).
Adapters from files are added to the weights, or handed on beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kexport.converter.keras_env import import_keras_hub
from kexport.converter.lora import LoraFile, applied, fit
from kexport.converter.sources import Source
from kexport.graphs.low_rank import LowRank, UpdatedWeights
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.errors import UnsupportedError

LIVE = "object"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter file on this original. `updates`: by parameter name. `merged`: the original's `weights` hold them already."""

    name: str
    file: LoraFile
    updates: Mapping[str, LowRank]
    merged: bool


@dataclass(frozen=True, slots=True)
class Original:
    """`task`: for capture; abstract unless `live`. `weights`: bytes by parameter name. `adapters`: from files; one that is merged is alone."""

    task: Any
    weights: WeightSource
    live: bool
    adapters: tuple[Adapter, ...] = ()

    @property
    def separate_adapters(self) -> tuple[Adapter, ...]:
        """Those that an artifact is given at run time."""
        return tuple(adapter for adapter in self.adapters if not adapter.merged)

    def adapter(self, name: str) -> Adapter | None:
        """What an artifact computes with while the adapter `name` is set; `""`: as it is opened, with what is merged."""
        return next((adapter for adapter in self.adapters if adapter.merged or adapter.name == name), None)

    def with_adapter(self, task: Any, name: str) -> contextlib.AbstractContextManager[None]:
        """Inside, `task` (this one, or the original as its source loads it) has that adapter as KerasHub loads it, and no other from a file."""
        adapter = self.adapter(name)
        return applied(adapter.file, task) if adapter is not None else contextlib.nullcontext()


def open_original(source: Source, lora: Mapping[str, LoraFile] | None = None, *, merge: bool = True) -> Original:
    """Build the task and find its weights; with `lora`, adapters by name: one to `merge` into them, or any number to keep apart.

    Raises:
        UnsupportedError: a live model that computes in less than float32, or an adapter on quantized layers.
        InvalidInputError: an adapter does not fit the model.
    """
    import_keras_hub()
    task, weights, live = _open(source, keep_own_adapters=not lora)
    adapters = tuple(Adapter(name, file, fit(file, task), merge) for name, file in (lora or {}).items())
    for adapter in adapters if merge else ():
        weights = UpdatedWeights(weights, adapter.updates)
    return Original(task, weights, live, adapters)


def _open(source: Source, *, keep_own_adapters: bool) -> tuple[Any, WeightSource, bool]:
    """Task, weights, and whether the task is live. A live model's own adapters are part of its weights unless a file takes their place."""
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.graphs.capture.live import LiveWeights
    from kexport.graphs.capture.lora import low_rank_updates
    from kexport.graphs.capture.recorded import recording

    if source.kind == LIVE:
        task = source.build()
        if task.compute_dtype != "float32":
            raise UnsupportedError(
                "KX208",
                f"the live model computes in {task.compute_dtype}; kexport proves float32 compute",
                hint="save it with save_to_preset() and convert the preset: it loads in float32",
            )
        return task, UpdatedWeights(LiveWeights(task.variables), low_rank_updates(task) if keep_own_adapters else {}), True
    with abstract_weights():
        task = source.build(load_weights=False)
    with recording() as recorded:
        source.load_weights_into(task)
    return task, recorded.source(task.variables), False
