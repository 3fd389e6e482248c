"""experts: a mixture of feed-forward experts of which each token takes a few (Shazeer et al. 2017), chosen and weighted outside.

For the experts e = ids[t, j] of token t, with gate[e], up[e] [hidden, intermediate] and down[e] [intermediate, hidden]:

    g = min(x[t] . gate[e] + gate_bias[e], limit)
    u = clip(x[t] . up[e] + up_bias[e], -limit, limit) + offset
    output[t] = sum over j of  weights[t, j] ((activation(g) u) . down[e] + down_bias[e])

Matrices and biases are parameters; gate and values have a bias both or neither. `activation`: `silu` is g sigmoid(alpha g), `gelu` and `gelu_tanh` are as the op gelu, `relu`. gpt-oss: alpha 1.702, limit 7, offset 1; the
others: alpha 1, no limit, offset 0. Nothing is said of experts that no token takes: a form may read the taken ones only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.activations import CUBIC
from kexport.graphs.ops.elementwise import erf
from kexport.graphs.ops.spec import REQUIRED, Array, Arrays, Evaluation, Types, attribute, define, optional, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

INPUTS = ("x", "ids", "weights", "gate", "up", "down", "gate_bias?", "up_bias?", "down_bias?")
X, IDS, WEIGHTS, GATE, UP, DOWN, GATE_BIAS, UP_BIAS, DOWN_BIAS = range(len(INPUTS))
MATRICES, BIASES = (GATE, UP, DOWN), (GATE_BIAS, UP_BIAS, DOWN_BIAS)
ACTIVATIONS: dict[str, Callable[[Array, float], Any]] = {
    "silu": lambda g, alpha: g / (1 + np.exp(-alpha * g)),
    "gelu": lambda g, alpha: 0.5 * g * (1 + erf(g / math.sqrt(2))),
    "gelu_tanh": lambda g, alpha: 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + CUBIC * g**3))),
    "relu": lambda g, alpha: np.maximum(g, 0),
}


def gated(gate: Array, up: Array, activation: str, alpha: float, limit: float | None, offset: float) -> Array:
    """What goes into the last product: the activated gate times the values."""
    if limit is not None:
        gate, up = np.minimum(gate, gate.dtype.type(limit)), np.clip(up, up.dtype.type(-limit), up.dtype.type(limit))
    return np.asarray(ACTIVATIONS[activation](gate, alpha) * (up + up.dtype.type(offset))).astype(gate.dtype)


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    x, ids, weights, gate, up, down = types[: DOWN + 1]
    assert x and ids and weights and gate and up and down
    if any(node.input(index) not in graph.weights for index in (*MATRICES, *BIASES) if node.input(index)):
        raise refuse(node, "takes parameters as matrices and biases")
    if attribute(node, "activation") not in ACTIVATIONS:
        raise refuse(node, f"knows no activation `{attribute(node, 'activation')}`")
    experts, hidden, intermediate = gate.shape
    fits = (
        x.shape[-1] == hidden
        and ids.shape == weights.shape
        and ids.shape[:-1] == x.shape[:-1]
        and up.shape == gate.shape
        and down.shape == (experts, intermediate, hidden)
    )
    biases = [optional(types, index) for index in BIASES]
    fits = fits and (biases[0] is None) == (biases[1] is None)
    sizes = (intermediate, intermediate, hidden)
    fits = fits and all(bias is None or bias.shape == (experts, size) for bias, size in zip(biases, sizes, strict=True))
    if not fits:
        raise refuse(node, f"its inputs do not fit: {', '.join(str(type_) for type_ in types)}")
    return (x,)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, (ids, weights) = arrays[X].reshape(-1, arrays[X].shape[-1]), (arrays[i].reshape(-1, arrays[i].shape[-1]) for i in (IDS, WEIGHTS))
    form = {name: attribute(node, name) for name in ("activation", "alpha", "limit", "offset")}
    biases = [optional(arrays, index) for index in BIASES]
    output = np.zeros_like(x)
    for expert in np.unique(ids):
        rows, places = np.nonzero(ids == expert)
        gate_bias, up_bias, down_bias = (0 if bias is None else bias[expert] for bias in biases)
        gate, up = x[rows] @ arrays[GATE][expert] + gate_bias, x[rows] @ arrays[UP][expert] + up_bias
        made = gated(gate, up, **form) @ arrays[DOWN][expert] + down_bias
        np.add.at(output, rows, (weights[rows, places, None] * made).astype(x.dtype))
    return (output.reshape(arrays[X].shape),)


define(
    "experts",
    "gated feed-forward experts [experts, in, out] of which each token takes those in ids [..., k] with these weights; see the module's formula",
    inputs=INPUTS,
    attrs={"activation": REQUIRED, "alpha": 1.0, "limit": None, "offset": 0.0},
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
