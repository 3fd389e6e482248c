"""What the forms of attention share: the request, the bias that stands for every mask, and the state of a cache slot."""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.dims import BATCH, TOTAL, Shape, broadcast
from kexport.graphs.ir import Node
from kexport.graphs.ops.attention import BIAS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.runtime.contract.errors import InternalError
from kexport.targets.attention_request import Request
from kexport.targets.attention_request import read as read_request
from kexport.targets.onnx.builder import Builder, SlotTensors, Tensor, fixed

# Added to a hidden key's logit: exp of it is 0, and three of them do not overflow to an infinity, which makes NaN of a row without keys.
HIDDEN = np.float32(np.finfo(np.float32).min / 4)
HEADS_FIRST = (0, 2, 1, 3)


def read(node: Node, b: Builder) -> Request:
    """Read an attention node out."""
    return read_request(node, b.graph, fixed)


def additive_bias(b: Builder, r: Request, *, position_masks: bool) -> Tensor | None:
    """Everything that is added to the logits, [batch|1, heads|1, sequence, keys], or None: alibi slopes, the bias, and hidden keys as a
    large negative number. `position_masks`: also the causal and window masks, for operators that do not apply them themselves.
    Layers that ask for the same share one tensor."""
    named = tuple(r.input(index) for index in (SLOPES, BIAS, MASK, KEY_MASK))
    by_position = (r.causal, r.window, r.input(POSITIONS)) if position_masks else ()
    result: Tensor | None = b.memo(("bias", named, by_position, r.keys), lambda: _make_bias(b, r, position_masks))
    return result


def _make_bias(b: Builder, r: Request, position_masks: bool) -> Tensor | None:
    terms = [term for term in (_alibi(b, r), b.optional(r.input(BIAS)), _hidden_keys(b, r, position_masks)) if term is not None]
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = b.op("Add", [total, term], total.dtype, _joined(total.shape, term.shape))
    return b.expand(total, (*total.shape[:2], r.sequence, r.keys))


def _joined(left: Shape, right: Shape) -> Shape:
    shape = broadcast(left, right)
    if shape is None:
        raise InternalError("KX905", f"attention masks of shapes {left} and {right} do not broadcast")
    return shape


def _alibi(b: Builder, r: Request) -> Tensor | None:
    """slopes[h] * key index, [1, heads, 1, keys]."""
    slopes = b.optional(r.input(SLOPES))
    if slopes is None:
        return None
    column = b.reshape(slopes, (1, r.heads, 1, 1))
    return b.op("Mul", [column, b.cast(b.range(r.keys), slopes.dtype)], slopes.dtype, (1, r.heads, 1, r.keys))


def _hidden_keys(b: Builder, r: Request, position_masks: bool) -> Tensor | None:
    """0 for a visible key, HIDDEN for a hidden one, or None where no mask is asked for."""
    masks = [mask for mask in (_key_mask(b, r), b.optional(r.input(MASK))) if mask is not None]
    if position_masks:
        masks += _position_masks(b, r)
    if not masks:
        return None
    visible = masks[0]
    for mask in masks[1:]:
        visible = b.op("And", [visible, mask], "bool", _joined(visible.shape, mask.shape))
    zero, hidden = b.constant(np.float32(0)), b.constant(HIDDEN)
    return b.op("Where", [visible, zero, hidden], "float32", visible.shape)


def _key_mask(b: Builder, r: Request) -> Tensor | None:
    mask = b.optional(r.input(KEY_MASK))
    if mask is None:
        return None
    return b.op("Unsqueeze", [b.cast(mask, "bool"), b.integers(1, 2)], "bool", (mask.shape[0], 1, 1, mask.shape[1]))


def _position_masks(b: Builder, r: Request) -> list[Tensor]:
    """causal: key <= position; window: position - key < window; both [batch, 1, sequence, keys]."""
    if not (r.causal or r.window):
        return []
    positions = b.cast(b.ids(r.input(POSITIONS)), "int64")
    rows, columns = positions.shape
    places = b.op("Unsqueeze", [positions, b.integers(1, 3)], "int64", (rows, 1, columns, 1))
    shape, masks = (rows, 1, columns, r.keys), []
    if r.causal:
        masks.append(b.op("LessOrEqual", [b.range(r.keys), places], "bool", shape))
    if r.window:
        distance = b.op("Sub", [places, b.range(r.keys)], "int64", shape)
        masks.append(b.op("Less", [distance, b.integers(r.window)], "bool", shape))
    return masks


def write_part(b: Builder, slot_name: str, part: int, new: Tensor, positions: Tensor) -> None:
    """Write `new` [batch, sequence, key-value heads, dim] at each row's `positions` of a slot's part, by ScatterND."""
    tensors = b.slots[slot_name]
    past = tensors.past[part]
    heads = tensors.slot.num_key_value_heads
    rows, columns = positions.shape
    grid: Shape = (rows, heads, columns)

    def make_indices() -> Tensor:
        def axis(values: Tensor, insert: tuple[int, ...], shape: Shape) -> Tensor:
            placed = b.op("Unsqueeze", [values, b.integers(*insert)], "int64", shape)
            return b.op("Unsqueeze", [b.expand(placed, grid), b.integers(-1)], "int64", (*grid, 1))

        parts = [
            axis(b.range(BATCH), (1, 2), (rows, 1, 1)),
            axis(b.range(heads), (0, 2), (1, heads, 1)),
            axis(b.cast(positions, "int64"), (1,), (rows, 1, columns)),
        ]
        return b.op("Concat", parts, "int64", (*grid, len(parts)), axis=-1)

    indices = b.memo(("scatter", positions.name, heads), make_indices)
    inputs = [past, indices, b.transpose(new, HEADS_FIRST)]
    tensors.present[part] = b.op("ScatterND", inputs, past.dtype, present_shape(tensors, part), name=tensors.present_names[part])


def present_shape(tensors: SlotTensors, part: int) -> Shape:
    """[batch, key-value heads, present, dim]: in a shared buffer as long as past, else as long as past and the new tokens."""
    batch, heads, _, dim = tensors.past[part].shape
    return (batch, heads, "present", dim)


def slot_part(b: Builder, slot_name: str, part: int) -> Tensor:
    """A slot's keys or values so far, [batch, key-value heads, keys, dim]: of a capacity-sized buffer only the first `total` positions."""
    tensors = b.slots[slot_name]
    now = tensors.now(part)
    if tensors.slot.kind == "cross":
        return now
    batch, heads, _, dim = now.shape
    bounds: list[Any] = [b.integers(0), b.dim(TOTAL), b.integers(2)]
    return b.memo(("slot part", now.name), lambda: b.op("Slice", [now, *bounds], now.dtype, (batch, heads, TOTAL, dim)))


def keys_and_values(b: Builder, r: Request) -> tuple[Tensor, Tensor]:
    """The keys and values to attend to, [batch, key-value heads, keys, dim], written to the slot first where the node does."""
    new = [b.optional(r.input(index)) for index in (KEY, VALUE)]
    if r.slot is None:
        key, value = (b.transpose(tensor, HEADS_FIRST) for tensor in new if tensor is not None)
        return key, value
    if r.write:
        for part, tensor in enumerate(new):
            assert tensor is not None
            write_part(b, r.slot_name, part, tensor, b.ids(r.input(POSITIONS)))
    return slot_part(b, r.slot_name, 0), slot_part(b, r.slot_name, 1)


__all__ = [
    "BIAS", "HEADS_FIRST", "HIDDEN", "KEY", "KEY_MASK", "MASK", "POSITIONS", "QUERY", "SINKS", "SLOPES", "VALUE", "Request",
    "additive_bias", "keys_and_values", "present_shape", "read", "slot_part", "write_part",
]  # fmt: skip
