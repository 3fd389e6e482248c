"""com.microsoft GroupQueryAttention: writes the new keys and values into the cache buffer in place and attends to what is there.

Its rules, as run on onnxruntime 1.31 (CPU): a row's new tokens go right behind what it holds; the cache is [batch, heads, length, dim] with
one head size, a multiple of 8; rotation inside the op needs a head size of 16n and tables of 8n columns; the bias is
[batch|1, heads|1, sequence, total]; softcap comes before the bias; a window counts the token itself (in releases up to 1.23 it does not).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.attention import KEY, POSITIONS, QUERY, SINKS, VALUE, Request, additive_bias, present_shape
from kexport.targets.onnx.builder import CONTRIB, Builder, Tensor
from kexport.targets.onnx.rope_tables import tables
from kexport.targets.onnx.tokens import row_ends

HEAD_MULTIPLE = 8
ROTARY_HEAD_MULTIPLE = 16
ROTARY_TABLE_MULTIPLE = 8


class Operands(NamedTuple):
    """Query, key, value [batch, sequence, heads * dim], or one packed tensor; cos and sin where the operator rotates."""

    query: Tensor
    key: Tensor | None
    value: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    remark: str


def refuse(b: Builder, r: Request) -> str:
    """Why this operator cannot take a node that it has a form for (unfusable.py); empty if it can."""
    if r.slot is None or not r.write:
        return "it does not write a cache slot"
    if r.slot.kind != "self":
        return "it writes a cross-attention slot"
    return "" if b.is_position_input(r.input(POSITIONS)) else "its positions are computed in the graph"


def render(b: Builder, r: Request) -> str:
    """Write the operator. Returns a remark on the form it took."""
    tensors, ends, operands = b.slots[r.slot_name], row_ends(b), _operands(b, r)
    bias, sinks = additive_bias(b, r, position_masks=False), b.optional(r.input(SINKS))
    attributes: dict[str, float | int] = {
        "num_heads": r.heads,
        "kv_num_heads": r.kv_heads,
        "scale": r.scale,
        "do_rotary": int(operands.cos is not None),
    }
    optional = {"local_window_size": r.window, "softcap": r.softcap}
    attributes |= {name: value for name, value in optional.items() if value}
    inputs = [*operands[:3], *tensors.past, ends.last_index, ends.total, operands.cos, operands.sin, None, bias, sinks]
    outputs = [("float32", r.flat_query), *((past.dtype, present_shape(tensors, part)) for part, past in enumerate(tensors.past))]
    result, *written = b.operator("GroupQueryAttention", inputs, outputs, domain=CONTRIB, names=("", *tensors.present_names), **attributes)
    tensors.present[:] = written
    b.set(r.node.output, b.reshape(result, (*r.flat_query[:2], r.heads, r.head_dim)))
    return operands.remark


def _operands(b: Builder, r: Request) -> Operands:
    query, key, value = (r.input(index) for index in (QUERY, KEY, VALUE))
    ropes = [b.producers.get(name) for name in (query, key)]
    why_outside = _why_rotated_outside(b, r, ropes)
    cos = sin = None
    if not why_outside and ropes[0] is not None and ropes[1] is not None:
        cos, sin = tables(b, ropes[0])
        query, key = ropes[0].input(0), ropes[1].input(0)
    rotated = any(node is not None and node.op == "rope" for node in ropes)
    remark = ("rotary inside" if cos else f"rotary outside: {why_outside}") if rotated else ""
    packed = _packed(b, r, (query, key, value))
    if packed is not None:
        return Operands(packed, None, None, cos, sin, ", ".join(filter(None, ("packed QKV", remark))))

    def flat(name: str, heads: int) -> Tensor:
        return b.reshape(b.value(name), (*r.flat_query[:2], heads * r.head_dim))

    remark = ", ".join(filter(None, ("separate Q, K, V", remark)))
    return Operands(flat(query, r.heads), flat(key, r.kv_heads), flat(value, r.kv_heads), cos, sin, remark)


def _why_rotated_outside(b: Builder, r: Request, producers: list[Node | None]) -> str:
    """Why the rotation stays outside the operator; empty if it can go in."""
    ropes = [node for node in producers if node is not None and node.op == "rope"]
    if len(ropes) < len(producers):
        return "queries and keys are not both rotated right before attention"
    first, second = ropes
    if attribute(first, "factor") != attribute(second, "factor") or not _same_frequencies(b, first, second):
        return "queries and keys rotate differently"
    if not all(b.is_position_input(rope.input(1)) and rope.input(2) in b.graph.constants for rope in ropes):
        return "its positions or frequencies are computed in the graph"
    half = int(b.type_of(first.input(2)).shape[0])
    if r.head_dim % ROTARY_HEAD_MULTIPLE or half % ROTARY_TABLE_MULTIPLE:
        return f"the operator rotates heads of {ROTARY_HEAD_MULTIPLE}n by tables of {ROTARY_TABLE_MULTIPLE}n, not {r.head_dim} by {half}"
    return ""


def _same_frequencies(b: Builder, first: Node, second: Node) -> bool:
    constants = b.graph.constants
    if first.input(2) == second.input(2):
        return True
    return (
        first.input(2) in constants
        and second.input(2) in constants
        and np.array_equal(constants[first.input(2)], constants[second.input(2)])
    )


def _packed(b: Builder, r: Request, names: tuple[str, str, str]) -> Tensor | None:
    """The one tensor that queries, keys and values are the three parts of, in this order; None if there is none."""
    sources = [_before_reshapes(b, name) for name in names]
    split = b.producers.get(sources[0])
    if split is None or split.op != "split" or split.outputs != tuple(sources):
        return None
    shape = b.type_of(split.input(0)).shape
    sizes = (r.heads * r.head_dim, r.kv_heads * r.head_dim, r.kv_heads * r.head_dim)
    if int(attribute(split, "axis")) != 2 or tuple(attribute(split, "sizes")) != sizes or shape != (*r.flat_query[:2], sum(sizes)):
        return None
    return b.value(split.input(0))


def _before_reshapes(b: Builder, name: str) -> str:
    while (node := b.producers.get(name)) is not None and node.op == "reshape":
        name = node.input(0)
    return name
