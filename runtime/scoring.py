"""Scores of given texts: KerasHub's `score()` over an artifact's uncached forward, and the rows of ids that such calls take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.forward import Forward
from kexport.runtime.prompts import Ids, Mask, read_prompt

Floats = npt.NDArray[np.float32]
Intercept = Callable[[Any, int], Any]

MODES = ("logits", "loss")
LOGIT_BYTES_AT_ONCE = 256_000_000  # of a loss: its logits are dropped rows by rows
FLOAT_BYTES = 4


class ScoreGradients(NamedTuple):
    """`loss` float32 [batch, length], one for each token; `gradients` float32 [batch, length, hidden] of their sum at the embeddings."""

    loss: Floats
    gradients: Floats


def read_rows(token_ids: Any, padding_mask: Any, *, vocabulary_size: int, capacity: int) -> tuple[Ids, Mask]:
    """Ids and mask [batch, length]; a mask of None is all true. Raises InvalidInputError as `read_prompt` does."""
    mask = np.ones(np.shape(token_ids), np.bool_) if padding_mask is None else padding_mask
    rows = read_prompt(token_ids, mask, vocabulary_size=vocabulary_size, capacity=capacity)
    return rows.ids, rows.mask


def score(forward: Forward, ids: Ids, mask: Mask, mode: str, intercept: Intercept | None, target_ids: Any) -> Floats:
    """Logits [batch, length, vocabulary] or the loss of each token [batch, length], both float32.

    Raises InvalidInputError: KX573 for another mode or a loss without targets, in KerasHub's words; KX574 for targets that do not fit.
    Raises UnsupportedError: KX572 without the signature, KX575 for an `intercept` that the artifact was not made for or that changes what it sees.
    """
    if mode not in MODES:
        raise InvalidInputError("KX573", "Unsupported scoring_mode. Must be one of 'logits' or 'loss'.")
    if mode == "loss" and target_ids is None:
        raise InvalidInputError("KX573", "Cannot compute loss without targets. Please provide target token ids via the target_ids parameter.")
    if intercept is not None:
        logits = _intercepted(forward, ids, mask, intercept)
        return logits if mode == "logits" else token_losses(logits, _targets(target_ids, ids, logits.shape[-1]))
    signature = forward.signature(names.SCORE)
    if mode == "logits":
        scores: Floats = _run(forward, names.SCORE, ids, mask)[names.LOGITS]
        return scores
    vocabulary = next(int(spec.shape[-1]) for spec in signature.outputs if spec.name == names.LOGITS)
    targets = _targets(target_ids, ids, vocabulary)
    losses = np.empty(ids.shape, np.float32)
    for rows in _row_blocks(ids.shape, vocabulary):
        losses[rows] = token_losses(_run(forward, names.SCORE, ids[rows], mask[rows])[names.LOGITS], targets[rows])
    return losses


def score_gradients(forward: Forward, ids: Ids, mask: Mask, target_ids: Any, vocabulary_size: int) -> ScoreGradients:
    """Loss and gradients. Raises UnsupportedError (KX572) without the signature, InvalidInputError (KX574) for targets that do not fit."""
    forward.signature(names.SCORE_GRADIENTS)
    targets = _targets(target_ids, ids, vocabulary_size)
    outputs = forward.run(names.SCORE_GRADIENTS, {names.TOKEN_IDS: ids, names.PADDING_MASK: mask, names.TARGET_IDS: targets})
    return ScoreGradients(outputs[names.LOSS], outputs[names.GRADIENTS])


def token_losses(logits: Floats, targets: Ids) -> Floats:
    """-log of the softmax of `logits` [..., vocabulary] at `targets` [...], float32: no padding is left out, nothing is averaged."""
    top = logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)
    losses = np.log(np.exp(logits - top).sum(axis=-1)) + (top - chosen)[..., 0]
    return np.asarray(losses, np.float32)


def _run(forward: Forward, name: str, ids: Ids, mask: Mask) -> dict[str, Any]:
    return forward.run(name, {names.TOKEN_IDS: ids, names.PADDING_MASK: mask})


def _intercepted(forward: Forward, ids: Ids, mask: Mask, intercept: Intercept) -> Floats:
    """Show `intercept` the embeddings (-1) and what each layer gave (0, 1, ...); the logits."""
    if forward.manifest.signature(names.SCORE_LAYERS) is None:
        hint = "convert again with --signatures score_layers"
        raise UnsupportedError("KX575", "`layer_intercept_fn` needs an artifact that gives its layers' outputs", hint=hint)
    outputs = _run(forward, names.SCORE_LAYERS, ids, mask)
    for place, states in enumerate(outputs[names.HIDDEN_STATES]):
        before = states.copy()
        given = intercept(states, place - 1)
        if given is None or not np.array_equal(np.asarray(given), before, equal_nan=True):
            message = f"`layer_intercept_fn` returned something else than it was given at layer {place - 1}: an artifact's layers can be looked at, not changed"
            raise UnsupportedError("KX575", message, hint="return the first argument as it is; to change layers use the original model")
    logits: Floats = outputs[names.LOGITS]
    return logits


def _targets(target_ids: Any, ids: Ids, vocabulary_size: int) -> Ids:
    targets = np.asarray(target_ids)
    if targets.shape != ids.shape or not np.issubdtype(targets.dtype, np.integer):
        raise InvalidInputError("KX574", f"`target_ids` is {targets.dtype}{list(targets.shape)}; one id for each of the {list(ids.shape)} token ids is wanted")
    wrong = targets[(targets < 0) | (targets >= vocabulary_size)]
    if wrong.size:
        raise InvalidInputError("KX574", f"`target_ids` holds the id {int(wrong[0])}; the vocabulary has the ids 0 to {vocabulary_size - 1}")
    return targets


def _row_blocks(shape: tuple[int, ...], vocabulary: int) -> Iterator[slice]:
    rows = max(1, LOGIT_BYTES_AT_ONCE // (shape[1] * vocabulary * FLOAT_BYTES))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)
