"""Where the original contradicts itself: its own loop and its uncached forward give other logits for the same tokens. The artifact gives the loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.converter.parity.gate import Expected
from kexport.converter.parity.oracle import Oracle
from kexport.runtime.contract.errors import UnsupportedError
from numpy.typing import NDArray

VISIBLE = 0.01  # of the spread of the logits: far beyond rounding


def contradictions(oracle: Oracle, answers: list[Expected]) -> list[str]:
    """A sentence for the certificate, or none. One case of ids is looked at; models that take more than ids, or that have an encoder, are not, nor those
    with split prompts: to their uncached forward a generated id 0 is padding, to their loop a token."""
    answer = next((answer for answer in answers if answer.logits is not None and answer.tokens is not None), None)
    if answer is None or answer.case.encoder or oracle.fix or answer.case.split:
        return []
    assert answer.tokens is not None and answer.logits is not None
    try:
        plain = oracle.called(answer.tokens)
    except UnsupportedError:
        return []
    pairs = [_of_row(answer.logits[row], plain[row], len(prompt)) for row, prompt in enumerate(answer.case.prompts)]
    difference = max(float(np.abs(cached - uncached).max()) for cached, uncached in pairs)
    spread = max(float(np.ptp(cached, axis=-1).max()) for cached, _ in pairs)
    if difference <= VISIBLE * spread:
        return []
    return [f"the original's cached and uncached forward differ by {difference:.2g} (logits spread over {spread:.2g}); the artifact gives what generate() gives"]


def _of_row(cached: NDArray[Any], uncached: NDArray[Any], start: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both at the positions from which a row's new tokens are chosen."""
    return cached[start - 1 : -1], uncached[start - 1 : -1]
