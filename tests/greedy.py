"""Greedy generation on a graph with the interpreter: the plainest possible loop, rows independent of each other.

Prompt rows are prefilled in chunks; then every row takes one token a step at its own position until `max_length`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource

from tests.seed_models import padded


@dataclass
class Generated:
    """Token rows, and for every generated token the distance between the best and the second-best logit."""

    tokens: list[list[int]]
    gaps: list[float] = field(default_factory=list)


class Session:
    """A graph with caches and one length a row. `capacity`: positions, padding behind a row included."""

    def __init__(
        self, graphs: Mapping[str, Graph], weights: WeightSource, rows: int, capacity: int, encoder_rows: list[list[int]] | None = None
    ) -> None:
        self.graph, self.weights = graphs["extend"], weights
        self.caches = new_caches(self.graph, rows, capacity)
        self.lengths = np.zeros(rows, np.int64)
        self.feeds: dict[str, Any] = {}
        if encoder_rows is not None:
            self._encode(graphs["encode"], encoder_rows)

    def _encode(self, graph: Graph, rows: list[list[int]]) -> None:
        ids, mask = padded(rows, max(map(len, rows)))
        outputs = run(graph, {"encoder_token_ids": ids, "encoder_padding_mask": mask}, self.weights)
        for slot in self.graph.slots:
            if slot.startswith("cross."):
                self.caches[slot] = [outputs[f"{slot}.key"], outputs[f"{slot}.value"]]
        self.feeds["encoder_padding_mask"] = mask

    def extend(self, rows: Sequence[Sequence[int]]) -> Any:
        """Append these tokens to each row (none for an empty one); logits [rows, vocabulary] of each row's last one.

        Padding stands at the row's next positions: the row's next tokens overwrite it there.
        """
        counts = np.array([len(row) for row in rows])
        ids, _ = padded([list(row) for row in rows], int(counts.max()))
        positions = (self.lengths[:, None] + np.arange(ids.shape[1])).astype(np.int32)
        last = np.maximum(counts, 1)
        feeds = {"token_ids": ids, "positions": positions, "lengths": last.astype(np.int32), **self.feeds}
        logits = run(self.graph, {name: feeds[name] for name in self.graph.inputs}, self.weights, self.caches)["logits"]
        self.lengths += counts
        return logits[:, 0] if logits.shape[1] == 1 else logits[np.arange(len(counts)), last - 1]


def greedy(
    graphs: Mapping[str, Graph],
    weights: WeightSource,
    prompts: list[list[int]],
    max_length: int,
    *,
    encoder_prompts: list[list[int]] | None = None,
    chunks: Sequence[int] = (),
) -> Generated:
    """Continue every prompt to `max_length`. `chunks`: cut points; the prompts are prefilled piece by piece between them."""
    session = Session(graphs, weights, len(prompts), max_length + max(map(len, prompts)), encoder_prompts)
    rows = [list(prompt) for prompt in prompts]
    logits = _prefill(session, rows, chunks)
    result = Generated(rows)
    while True:
        growing = [len(row) < max_length for row in rows]
        if not any(growing):
            return result
        new: list[list[int]] = []
        for row, grows, numbers in zip(rows, growing, logits, strict=True):
            if grows:
                best, second = np.sort(numbers)[::-1][:2]
                result.gaps.append(float(best - second))
                row.append(int(numbers.argmax()))
            new.append([row[-1]] if grows and len(row) < max_length else [])
        if any(new):
            logits = session.extend(new)


def _prefill(session: Session, rows: list[list[int]], chunks: Sequence[int]) -> Any:
    """The logits of each row's last prompt token."""
    last: Any = None
    for start, stop in zip((0, *chunks), (*chunks, None), strict=True):
        pieces = [row[start:stop] for row in rows]
        if not any(pieces):
            continue
        logits = session.extend(pieces)
        last = logits.copy() if last is None else last
        for index, piece in enumerate(pieces):
            if piece:
                last[index] = logits[index]
    return last
