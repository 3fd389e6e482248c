"""When an artifact is refused: is it the capture or the target? The captured graph, run by the numpy reference, tells.

The reference runs the first row of the case that failed, with the original's tokens fed, and its logits are compared with the original's
at each position, as the artifact's were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case, padded
from kexport.converter.parity.tolerances import LOGIT_BOUND
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from numpy.typing import NDArray

LARGEST_MODEL = 500_000_000  # parameters; the reference is slow
SHOWN_PARTS = ("key", "value")


def reference_logits(graphs: Mapping[str, Graph], weights: WeightSource, case: Case, row: NDArray[Any], pad: int) -> NDArray[np.float32]:
    """The captured graph's logits [positions, vocabulary] for the last prompt token and every later one of the case's first row."""
    graph = graphs["extend"]
    caches = new_caches(graph, 1, len(row))
    feeds: dict[str, Any] = {}
    if case.encoder:
        ids, mask = padded(case.encoder[:1], len(case.encoder[0]), pad)
        encoded = run(graphs["encode"], {"encoder_token_ids": ids, "encoder_padding_mask": mask}, weights)
        feeds["encoder_padding_mask"] = mask
        for slot in (name for name, value in graph.slots.items() if value.kind == "cross"):
            caches[slot] = [encoded[f"{slot}.{part}"] for part in SHOWN_PARTS]
    start, logits = 0, []
    for stop in range(len(case.prompts[0]), len(row)):
        tokens = row[None, start:stop]
        feeds |= {"token_ids": tokens, "positions": np.arange(start, stop, dtype=np.int32)[None], "lengths": np.array([stop - start])}
        logits.append(run(graph, {name: feeds[name] for name in graph.inputs}, weights, caches)["logits"][0, -1])
        start = stop
    return np.stack(logits)


def attribute_difference(
    graphs: Mapping[str, Graph], weights: WeightSource, case: Case, tokens: NDArray[Any], oracle: NDArray[Any], pad: int
) -> str:
    """One sentence that says which side of the graph the difference comes from."""
    row, start = tokens[0], len(case.prompts[0])
    ours, theirs = reference_logits(graphs, weights, case, row, pad), oracle[0, start - 1 : len(row) - 1]
    bound = LOGIT_BOUND["float32"] * (theirs.max(axis=-1) - theirs.min(axis=-1))
    differs = np.abs(ours - theirs).max(axis=-1) > bound
    if not differs.any():
        return "the captured graph, run by the reference interpreter, equals the original: the difference comes from the target's rendering"
    position = start + int(np.argmax(differs))
    return f"the captured graph itself, run by the reference interpreter, differs from the original from position {position} on: the capture is wrong"
