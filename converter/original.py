"""The original as the capture and the writer need it: a stock task, and where its weight bytes come from.

A live object is used as it is. Anything else is built without weights, and its stock loader is recorded (graphs/capture/recorded.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kexport.converter.keras_env import import_keras_hub
from kexport.converter.sources import Source
from kexport.graphs.low_rank import UpdatedWeights
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.errors import UnsupportedError

LIVE = "object"


@dataclass(frozen=True, slots=True)
class Original:
    """`task`: for capture; abstract unless `live`. `weights`: bytes by parameter name."""

    task: Any
    weights: WeightSource
    live: bool


def open_original(source: Source) -> Original:
    """Build the task and find its weights.

    Raises:
        UnsupportedError: a live model that computes in less than float32.
    """
    import_keras_hub()
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
        return Original(task, UpdatedWeights(LiveWeights(task.variables), low_rank_updates(task)), live=True)
    with abstract_weights():
        task = source.build(load_weights=False)
    with recording() as recorded:
        source.load_weights_into(task)
    return Original(task, recorded.source(task.variables), live=False)
