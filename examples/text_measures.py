"""Measures of text and of models of text, on token ids. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


def pack_rows(stories: Sequence[Sequence[int]], length: int, start: int, end: int) -> Ids:
    """Join stories as `start story end start story end ...` and cut the stream into rows.

    Returns int32 `[rows, length + 1]`: columns `0..length-1` are a model's input and columns `1..length` its targets, so the last id of a row is the
    first of the next one. A remainder shorter than a row is dropped. Raises `ValueError` if the stream does not fill one row.
    """
    stream = np.concatenate([np.asarray([start, *story, end], dtype=np.int32) for story in stories])
    rows = (len(stream) - 1) // length
    if rows == 0:
        raise ValueError(f"{len(stream)} tokens do not fill a row of {length + 1}")
    return np.stack([stream[row * length : (row + 1) * length + 1] for row in range(rows)])


def unigram_loss(ids: Ids) -> float:
    """Return the loss in nats per token of the best possible unigram model of `ids`: the entropy of their own frequencies.

    No unigram model, trained on whatever, has a lower mean negative log likelihood on these tokens (Gibbs' inequality), so it is the strictest baseline.
    """
    counts = np.unique(ids, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def distinct_share(ids: Sequence[int], n: int) -> float:
    """Return how many of the n-grams of `ids` are different ones: 1 when none repeats, near 0 in a loop."""
    grams = [tuple(ids[index : index + n]) for index in range(len(ids) - n + 1)]
    if not grams:
        raise ValueError(f"{len(ids)} ids hold no {n}-gram")
    return len(set(grams)) / len(grams)


def top_two_gaps(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return float32 `[steps]`: how far the largest of `logits` `[steps, vocabulary]` is above the second largest."""
    top = np.sort(np.partition(logits, -2, axis=-1)[:, -2:], axis=-1)
    gaps: npt.NDArray[np.float32] = top[:, 1] - top[:, 0]
    return gaps
