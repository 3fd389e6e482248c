"""What the forms of attention share: the request, the state of a cache slot, and the masks.

Rows are padded on the left, so that the distance of two keys in the state is their distance in the text, and every row ends at the
last column. Masks by row index (`index_mask`) rely on that alone; they have the forms that the vendor's paged attention reads
windows and slopes from. Where a graph computes with positions itself, keys are first brought into the order of the text (`in_text_order`).
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL
from kexport.graphs.ir import Node
from kexport.graphs.ops.attention import BIAS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.targets.attention_request import Request
from kexport.targets.attention_request import read as read_request
from kexport.targets.openvino.builder import HEADS_FIRST, Builder, Output, fixed, output_of
from openvino import PartialShape, Type, opset6
from openvino import opset13 as op

# A hidden key's logit. Never an infinity: a row that sees no key (padding) would become NaN in a plain softmax.
HIDDEN = float(np.finfo(np.float32).min)
KEY_AXIS = 2
BIAS_KEY_AXIS = 3


def read(node: Node, b: Builder) -> Request:
    """Read an attention node out."""
    return read_request(node, b.graph, fixed)


# ---- the state of a slot


def append(b: Builder, slot_name: str, part: int, new: Output) -> Output:
    """Put `new` [batch, heads, sequence, dim] behind what the slot's state holds; gives the whole part [batch, heads, total, dim]."""
    if (slot_name, part) in b.written:
        raise UnsupportedError("KX217", f"cache slot `{slot_name}` is written twice in one call; the OpenVINO target appends once")
    slot = b.graph.slots[slot_name]
    dim = slot.value_head_dim if part else slot.head_dim
    name = b.states[slot_name][part]
    start = op.broadcast(b.number(0), op.concat([b.dim(BATCH), b.integers(slot.num_key_value_heads, 0, dim)], 0))
    held = opset6.read_value(start, name, Type.f32, PartialShape([-1, slot.num_key_value_heads, -1, dim]))
    gathered = op.gather(held, b.input(names.BEAM_INDEX), b.integer(0))
    whole = op.concat([gathered, new], KEY_AXIS)
    b.sinks.append(opset6.assign(whole, name))
    b.written[slot_name, part] = output_of(whole)
    return output_of(whole)


def slot_part(b: Builder, slot_name: str, part: int) -> Output:
    """A slot's keys or values [batch, heads, keys, dim]: what the encoder gave, or the state with this call's tokens.

    Raises:
        UnsupportedError: the state is read before this call's tokens are written.
    """
    if (slot_name, part) in b.past:
        return b.past[slot_name, part]
    if (slot_name, part) not in b.written:
        raise UnsupportedError("KX217", f"cache slot `{slot_name}` is read before it is written, which the OpenVINO target cannot do")
    return b.written[slot_name, part]


def in_text_order(b: Builder, keys: Output) -> Output:
    """State [batch, heads, total, dim] with each row's padding moved from its start to its end: key index = position in the text."""

    def make_order() -> Output:
        held = output_of(op.reduce_sum(b.input(names.ATTENTION_MASK), b.integers(1), True))
        padding = op.subtract(b.dim(TOTAL), held)
        return output_of(op.minimum(op.add(padding, b.unsqueeze(b.range(TOTAL), 0)), op.subtract(b.dim(TOTAL), b.integers(1))))

    return output_of(op.gather(keys, b.memo("text order", make_order), b.integer(KEY_AXIS), 1))


def in_state_order(b: Builder, bias: Output) -> Output:
    """A bias [batch|1, heads|1, sequence, total] by position in the text, by column of the state: each row's padding comes first."""

    def make_order() -> Output:
        held = output_of(op.reduce_sum(b.input(names.ATTENTION_MASK), b.integers(1), True))
        padding = op.subtract(b.dim(TOTAL), held)
        return output_of(op.maximum(op.subtract(b.unsqueeze(b.range(TOTAL), 0), padding), b.integers(0)))

    order = b.memo("state order", make_order)
    rows = op.broadcast(bias, op.concat([b.dim(BATCH), b.integers(1, 1, 1)], 0), broadcast_spec="BIDIRECTIONAL")
    return output_of(op.gather(rows, order, b.integer(BIAS_KEY_AXIS), 1))


def repeat_heads(b: Builder, keys: Output, r: Request, dim: int) -> Output:
    """[batch, kv heads, keys, dim] -> [batch, heads, keys, dim] by the broadcast that the plugin's attention looks through."""
    if r.kv_heads == r.heads:
        return keys
    sizes = op.shape_of(keys, "i64")
    first, last = (op.gather(sizes, b.integers(*axes), b.integer(0)) for axes in ((0, 1), (2, 3)))
    target = op.concat([first, b.integers(r.heads // r.kv_heads), last], 0)
    repeated = op.broadcast(b.unsqueeze(keys, 2), target, broadcast_spec="BIDIRECTIONAL")
    return output_of(op.reshape(repeated, b.integers(0, r.heads, -1, dim), True))


# ---- masks


def index_mask(b: Builder, r: Request) -> Output:
    """float32, added to the logits: causal, real keys, window, slopes and bias; shared by all layers that ask for the same."""
    slopes, bias = r.input(SLOPES), r.input(BIAS)

    def make() -> Output:
        mask = _alibi_mask(b, r) if slopes else _window_mask(b, r) if r.window else _causal_mask(b)
        return output_of(op.add(mask, in_state_order(b, b.value(bias)))) if bias else mask

    return b.memo(("mask", r.window, slopes, bias), make)


def _columns(b: Builder) -> tuple[Output, Output, Output]:
    """Query index [1, 1, sequence, 1], key index [1, 1, 1, total], both as columns of the state; real keys [batch, 1, 1, total] bool."""

    def make() -> tuple[Output, Output, Output]:
        total, sequence = b.scalar_dim(TOTAL), b.scalar_dim(SEQUENCE)
        queries = op.range(op.subtract(total, sequence), total, b.integer(1), output_type="i64")
        real = op.not_equal(b.input(names.ATTENTION_MASK), b.integer(0))
        return b.unsqueeze(queries, 0, 1, 3), b.unsqueeze(b.range(TOTAL), 0, 1, 2), b.unsqueeze(real, 1, 2)

    return b.memo("columns", make)


def _visible(b: Builder) -> Output:
    queries, keys, real = _columns(b)
    return b.memo("visible", lambda: output_of(op.logical_and(op.less_equal(keys, queries), real)))


def _causal_mask(b: Builder) -> Output:
    return output_of(op.select(_visible(b), b.number(0), b.number(HIDDEN)))


def _window_mask(b: Builder, r: Request) -> Output:
    """The form of gpt-oss, the only one that the conversion to paged attention reads a window from."""
    queries, keys, real = _columns(b)
    always = b.constant(np.array(True))
    near = op.greater(keys, op.add(queries, b.integer(-r.window)))
    visible = op.bitwise_and(real, op.bitwise_and(op.bitwise_and(always, near), op.less_equal(keys, queries)))
    whole = op.broadcast(op.bitwise_and(visible, always), op.concat([b.dim(BATCH), b.integers(1), b.dim(SEQUENCE), b.dim(TOTAL)], 0))
    shown = op.select(whole, b.number(0), b.number(HIDDEN))
    return output_of(op.slice(shown, b.integers(0), b.dim(TOTAL), b.integers(1), b.integers(3)))


def _alibi_mask(b: Builder, r: Request) -> Output:
    """The form of Bloom, the only one that the conversion to paged attention reads slopes from: slope * key index where visible."""
    visible = _visible(b)
    if r.window:
        queries, keys, _ = _columns(b)
        visible = output_of(op.logical_and(visible, op.greater(keys, op.add(queries, b.integer(-r.window)))))
    slopes = b.reshape(b.value(r.input(SLOPES)), (r.heads,), (r.heads, 1, 1))
    places = b.unsqueeze(b.convert(b.range(TOTAL), "float32"), 0, 1)
    by_head = op.reshape(op.multiply(slopes, places), b.integers(1, r.heads, 1, -1), False)
    by_head = op.reshape(by_head, b.integers(1, r.heads, 1, -1), False)
    return output_of(op.select(op.logical_not(visible), b.number(HIDDEN), by_head))


def position_mask(b: Builder, r: Request) -> Output | None:
    """float32, broadcasts to [batch, heads, sequence, keys], or None: every mask, bias and slope by the positions the graph computes."""
    named = tuple(r.input(index) for index in (SLOPES, BIAS, MASK, KEY_MASK, POSITIONS))
    return b.memo(("position mask", named, r.causal, r.window, r.keys), lambda: _make_position_mask(b, r))


def _make_position_mask(b: Builder, r: Request) -> Output | None:
    terms = [term for term in (_slopes_by_key(b, r), b.optional(r.input(BIAS))) if term is not None]
    total = None if not terms else terms[0] if len(terms) == 1 else output_of(op.add(*terms))
    visible = _visible_by_position(b, r)
    if visible is None:
        return total
    return output_of(op.select(visible, b.number(0) if total is None else total, b.number(HIDDEN)))


def _slopes_by_key(b: Builder, r: Request) -> Output | None:
    if not r.input(SLOPES):
        return None
    column = b.reshape(b.value(r.input(SLOPES)), (r.heads,), (1, r.heads, 1, 1))
    return output_of(op.multiply(column, b.convert(b.range(r.keys), "float32")))


def _visible_by_position(b: Builder, r: Request) -> Output | None:
    parts: list[Output] = []
    if r.causal or r.window:
        places = b.unsqueeze(b.convert(b.ids(r.input(POSITIONS)), "int64"), 1, 3)
        if r.causal:
            parts.append(output_of(op.less_equal(b.range(r.keys), places)))
        if r.window:
            parts.append(output_of(op.less(op.subtract(places, b.range(r.keys)), b.integer(r.window))))
    if r.input(KEY_MASK):
        parts.append(b.unsqueeze(b.convert(b.value(r.input(KEY_MASK)), "bool"), 1, 2))
    if r.input(MASK):
        parts.append(b.value(r.input(MASK)))
    visible: Output | None = None
    for part in parts:
        visible = part if visible is None else output_of(op.logical_and(visible, part))
    return visible


def given_keys_and_values(b: Builder, r: Request) -> tuple[Output, Output]:
    """The keys and values of this call [batch, kv heads, sequence, dim]."""
    if not (r.input(KEY) and r.input(VALUE)):
        raise InternalError("KX905", f"attention of layer {r.layer} has neither a slot nor keys and values")
    return b.heads_first(r.input(KEY)), b.heads_first(r.input(VALUE))


__all__ = [
    "BIAS", "HEADS_FIRST", "HIDDEN", "KEY", "KEY_MASK", "MASK", "POSITIONS", "QUERY", "SINKS", "SLOPES", "VALUE", "Request",
    "append", "given_keys_and_values", "in_state_order", "in_text_order", "index_mask", "position_mask", "read", "repeat_heads", "slot_part",
]  # fmt: skip
