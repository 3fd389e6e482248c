"""rope: rotary position embedding (Su et al. 2021), half-split layout.

    angle[b,t,i] = positions[b,t] * inverse_frequencies[i]                     i < rotary_dim / 2
    first, second = the two halves of x's first rotary_dim numbers
    y = factor * (first * cos - second * sin, second * cos + first * sin), the rest of x unchanged
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import Array, Arrays, Evaluation, Types, attribute, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    x, positions, frequencies = types
    assert x is not None and positions is not None and frequencies is not None
    size, half = x.shape[-1], frequencies.shape[0]
    if not isinstance(size, int) or not isinstance(half, int) or 2 * half > size or len(positions.shape) != 2:
        raise refuse(node, f"cannot rotate {x} at {positions} by {frequencies}")
    return (x,)


def cos_sin(positions: Array, frequencies: Array) -> tuple[Array, Array]:
    """float32 cos and sin of positions [...] times frequencies [half]: [..., half]."""
    angles = positions.astype(np.float32)[..., None] * frequencies.astype(np.float32)
    return np.cos(angles), np.sin(angles)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, positions, frequencies = arrays
    half = frequencies.shape[0]
    cos, sin = (part[:, :, None, :] for part in cos_sin(positions, frequencies))
    factor = np.float32(attribute(node, "factor"))
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1) * factor
    return (np.concatenate([rotated, rest], axis=-1).astype(x.dtype),)


define(
    "rope",
    "rotary embedding of x [batch, sequence, heads, dim] at positions, half-split layout, scaled by factor",
    inputs=("x", "positions", "inverse_frequencies"),
    attrs={"factor": 1.0},
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
