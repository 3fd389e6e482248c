"""delay and keep_last: looking back over the call's start, with what a state kept of earlier calls.

`past` [batch, kept, channels] holds the last `kept` tokens before this call, x [batch, sequence, channels] the tokens of this call:

    delay(x, past; steps)[b,t] = the token `steps` before t: x[b,t-steps], or past[b,kept+t-steps] where that is negative    steps <= kept
    keep_last(x, past)         = the last `kept` tokens of past and x together: the state of the next call

A causal convolution over k tokens is a sum of k - 1 delays; a token shift is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, attribute, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

RANK = 3


def _check(node: Node, types: Types) -> tuple[TensorType, TensorType]:
    x, past = types
    assert x is not None and past is not None
    same = len(x.shape) == len(past.shape) == RANK and (x.shape[0], x.shape[2]) == (past.shape[0], past.shape[2])
    if not same or x.dtype != past.dtype or not isinstance(past.shape[1], int):
        raise refuse(node, f"{x} does not follow {past}")
    return x, past


def _infer_delay(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    x, past = _check(node, types)
    kept = past.shape[1]
    assert isinstance(kept, int)
    if not 0 < attribute(node, "steps") <= kept:
        raise refuse(node, f"cannot look {attribute(node, 'steps')} tokens back, {kept} are kept")
    return (x,)


def _infer_keep_last(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    return (_check(node, types)[1],)


def _delay(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, past = arrays
    start = past.shape[1] - attribute(node, "steps")
    return (np.concatenate([past, x], axis=1)[:, start : start + x.shape[1]],)


def _keep_last(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, past = arrays
    return (np.concatenate([past, x], axis=1)[:, x.shape[1] :],)


define(
    "delay",
    "each token's predecessor `steps` before it, from `past` where that lies before the call",
    inputs=("x", "past"),
    attrs={"steps": REQUIRED},
    infer=_infer_delay,
    evaluate=_delay,
)
define("keep_last", "the last tokens of past and x together, as many as past holds", inputs=("x", "past"), infer=_infer_keep_last, evaluate=_keep_last)
