"""The one place that holds tolerances.

A logit bound is relative to the spread of the original's logits (largest minus smallest at a position), because logits of different
models have different scales. It is a bound on rounding, not on error: a graph that does the right thing stays far below.

Some models amplify rounding beyond any fixed bound (large random weights, sharp attention). There exact arithmetic is the judge: logits
beyond the bound are rounding, and said to be, where original and artifact both are about as close to a float64 run of the captured graph as its
float32 run is.
"""

from __future__ import annotations

LOGIT_BOUND = {"float32": 1e-4}  # per compute dtype; share of the logit spread
NEAR_TIE_FACTOR = 2  # a differing token is a near tie where the original's own top-2 gap is at most this many bounds
MOST_NEAR_TIES = 1 / 200  # of all compared steps
AS_CLOSE_AS = 4  # distances from exact arithmetic may be at most this many times that of the captured graph in float32
