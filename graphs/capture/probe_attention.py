"""Find what a stock `_compute_attention` does by running it on probe values: scale, softcap, sinks, inner window.

Nothing is read by attribute name alone: a family that calls its window something else, keeps one key more, or ignores an attribute
is captured as it behaves. Attributes only sharpen what was measured: a measured scale is snapped to the exact float the layer holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.standins import stand_in_scope
from numpy.typing import NDArray

Array = NDArray[np.float64]

KEYS = 8  # probe keys; the query is the last of them
SMALL_WINDOW = 3  # windows are shrunk to this while probing: stock masks cost the window's square
VISIBLE = 1e-6
TOLERANCE = {"float32": 2e-3, "bfloat16": 4e-2, "float16": 4e-2}
SINK_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-2}
# Two large logits whose difference a softcap of 20 to 100 visibly shrinks, also in bfloat16.
LARGE, LARGE_STEP = 64.0, 4.0
LARGE_IF_SCALED_UP = 16.0
TINY = 1e-30


class UnidentifiedAttention(Exception):
    """The probe's answers match no formula; the caller keeps the attention as plain ops and notes why."""


@dataclass(frozen=True, slots=True)
class AttentionFacts:
    """What the probe found. `window`: visible keys, the token itself included. `sinks`: the weight added to the softmax's denominator."""

    scale: float
    softcap: float | None
    window: int | None
    sinks: keras.Variable | None


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """How to run the stock method eagerly: `run(q, k, v)` on [batch, length, heads, dim] arrays gives [batch, 1, heads, dim]."""

    layer: keras.layers.Layer
    run: Callable[[Array, Array, Array], Array]
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: str


def probe_attention(call: AttentionCall) -> AttentionFacts:
    """Identify the formula.

    Raises:
        UnidentifiedAttention: the answers match none.
    """
    windows = _integer_windows(call.layer)
    heads_by_name = [weight for weight in call.layer.weights if tuple(weight.shape) == (call.heads,)]
    with tf.init_scope(), stand_in_scope(heads_by_name) as values, _shrunken(call.layer, windows):
        visible, missing = _uniform_weights(call)
        sinks, extra = _match_sinks(call, heads_by_name, values, missing)
        keys = int(visible.sum())
        if not visible[KEYS - keys :].all():
            raise UnidentifiedAttention("the keys it sees are not the last ones")
        window = None if keys == KEYS else max(windows.values(), default=0) + keys - SMALL_WINDOW
        if window is not None and not windows:
            raise UnidentifiedAttention("it hides keys, but holds no window")
        scale, softcap = _match_logits(call, keys, extra)
    return AttentionFacts(scale, softcap, window, sinks)


def _integer_windows(layer: keras.layers.Layer) -> dict[str, int]:
    found = {}
    for name, value in vars(layer).items():
        if "window" in name and isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0:
            found[name] = int(value)
    return found


class _shrunken:  # noqa: N801  (used as a verb: `with _shrunken(layer, windows)`)
    """The layer's window attributes set to a small value for a while."""

    def __init__(self, layer: keras.layers.Layer, windows: dict[str, int]) -> None:
        self.layer, self.windows = layer, windows

    def __enter__(self) -> None:
        self.layer.__dict__.update(dict.fromkeys(self.windows, SMALL_WINDOW))

    def __exit__(self, *error: object) -> None:
        self.layer.__dict__.update(self.windows)


def _uniform_weights(call: AttentionCall) -> tuple[NDArray[np.bool_], Array]:
    """With all logits equal: which keys get weight [KEYS], and the weight that is missing per head, in units of one key [heads]."""
    values = np.zeros((KEYS, KEYS, call.kv_heads, call.value_dim))
    values[np.arange(KEYS), np.arange(KEYS)] = 1  # probe row b shows the weight of key b
    weights = call.run(np.zeros((KEYS, 1, call.heads, call.head_dim)), np.zeros((KEYS, KEYS, call.kv_heads, call.head_dim)), values)
    per_key = weights[:, 0, :, 0]
    visible = per_key[:, 0] > VISIBLE
    keys = int(visible.sum())
    return visible, keys / per_key.sum(axis=0) - keys


def _match_sinks(
    call: AttentionCall, candidates: list[keras.Variable], values: dict[int, NDArray[Any]], missing: Array
) -> tuple[keras.Variable | None, Array]:
    """The weight whose exponential explains the missing mass, and that exponential per head (zeros where nothing is missing)."""
    tolerance = SINK_TOLERANCE[call.dtype] * KEYS
    if np.abs(missing).max() <= tolerance:
        return None, np.zeros(call.heads)
    for weight in candidates:
        exponential = np.exp(values[id(weight)].astype(np.float64))
        if np.allclose(exponential, missing, rtol=TOLERANCE[call.dtype], atol=tolerance):
            return weight, exponential
    raise UnidentifiedAttention("probability is missing and no weight of one number per head explains it")


def _weight_of_last(call: AttentionCall, query: float, last: float, before_last: float, shown: int) -> float:
    """The weight of key `shown` for head 0, when only the last two keys have non-zero dot products with the query."""
    q = np.zeros((1, 1, call.heads, call.head_dim))
    k = np.zeros((1, KEYS, call.kv_heads, call.head_dim))
    v = np.zeros((1, KEYS, call.kv_heads, call.value_dim))
    q[..., 0] = query
    k[:, KEYS - 1, :, 0], k[:, KEYS - 2, :, 0] = last, before_last
    v[:, shown] = 1
    return float(call.run(q, k, v)[0, 0, 0, 0])


def _match_logits(call: AttentionCall, keys: int, extra: Array) -> tuple[float, float | None]:
    """Scale and softcap that explain the logit of a dot product of 1, and the difference of two large ones."""
    weight = _weight_of_last(call, 1.0, 1.0, 0.0, KEYS - 1)
    measured = math.log(max(weight, TINY) * (keys - 1 + float(extra[0])) / max(1 - weight, TINY))
    large = LARGE if abs(measured) < 2 else LARGE_IF_SCALED_UP
    small = large - LARGE_STEP
    shares = [_weight_of_last(call, 1.0, large, small, key) for key in (KEYS - 1, KEYS - 2)]
    difference = math.log(max(shares[0], TINY) / max(shares[1], TINY))
    tolerance = TOLERANCE[call.dtype]
    scales, softcaps = _candidates(call, measured)
    best: tuple[float, float, float | None] | None = None
    for softcap in softcaps:
        for scale, known in scales:
            at_one = _capped(scale, softcap)
            step = _capped(scale * large, softcap) - _capped(scale * small, softcap)
            error = max(abs(at_one - measured) / max(abs(measured), VISIBLE), abs(step - difference) / max(abs(difference), tolerance))
            error += 0 if known else tolerance / 2  # prefer the exact number the layer holds over the measured one
            if error < tolerance and (best is None or error < best[0]):
                best = (error, scale, softcap)
    if best is None:
        raise UnidentifiedAttention(f"a dot product of 1 gives a logit of {measured:.4g}, two of {large:g} and {small:g} differ by {difference:.4g}")
    return best[1], best[2]


def _candidates(call: AttentionCall, measured: float) -> tuple[list[tuple[float, bool]], list[float | None]]:
    """Scales as (value, whether the layer holds it) and softcaps that the layer's own numbers suggest, None first."""
    floats = {n: float(v) for n, v in vars(call.layer).items() if isinstance(v, int | float | np.floating) and not isinstance(v, bool)}
    exact = {1.0, call.head_dim**-0.5, *(value for value in floats.values() if value > 0)}
    hidden = getattr(call.layer, "hidden_dim", None)
    if isinstance(hidden, int):
        exact.add(1 / np.sqrt(hidden // call.heads))
    scales = [(float(scale), True) for scale in sorted(exact)]
    if call.dtype == "float32":
        scales.append((measured, False))
    return scales, [None, *sorted({value for name, value in floats.items() if "cap" in name and value > 0})]


def _capped(logit: float, softcap: float | None) -> float:
    return logit if softcap is None else softcap * math.tanh(logit / softcap)
