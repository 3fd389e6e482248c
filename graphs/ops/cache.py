"""cache_write and cache_read: a slot's keys or values as a tensor, for attention that stays plain ops.

`cache_write(x, positions)` writes x [batch, sequence, heads, dim] at each row's positions and gives the whole part
[batch, total, heads, dim]; `cache_read()` gives it unchanged. Parts: 0 keys, 1 values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.dims import TOTAL
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, attribute, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

CROSS_TOTAL = "encoder_sequence"


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    slot = graph.slots.get(attribute(node, "slot"))
    if slot is None:
        raise refuse(node, f"there is no cache slot `{attribute(node, 'slot')}`")
    dim = slot.value_head_dim if attribute(node, "part") else slot.head_dim
    if types and types[0] is not None and types[0].shape[2:] != (slot.num_key_value_heads, dim):
        raise refuse(node, f"{types[0]} does not fit the slot {slot}")
    total = TOTAL if slot.kind == "self" else CROSS_TOTAL
    return (TensorType(slot.dtype, ("batch", total, slot.num_key_value_heads, dim)),)


def _write(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, positions = arrays
    part = evaluation.caches[attribute(node, "slot")][attribute(node, "part")]
    part[np.arange(positions.shape[0])[:, None], positions] = x
    return (part.copy(),)


def _read(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    return (evaluation.caches[attribute(node, "slot")][attribute(node, "part")].copy(),)


define(
    "cache_write",
    "write x at each row's positions of a slot's part (0 keys, 1 values) and give the whole part",
    inputs=("x", "positions"),
    attrs={"slot": REQUIRED, "part": REQUIRED},
    infer=_infer,
    evaluate=_write,
    intrinsic=True,
)
define(
    "cache_read",
    "a slot's part (0 keys, 1 values) as it stands",
    inputs=(),
    attrs={"slot": REQUIRED, "part": REQUIRED},
    infer=_infer,
    evaluate=_read,
    intrinsic=True,
)
