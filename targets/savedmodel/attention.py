"""attention in TensorFlow operators: two batched products and a Softmax, query heads of one key-value head laid below each other.

    query   [batch, sequence, heads, dim] -> [batch, kv_heads, group * sequence, dim]       no repeat of keys or values
    cache   [batch, kv_heads, length, dim], rows [batch * kv_heads * length, dim] of it written in place (InplaceUpdate)
    hidden keys get a large negative number added; one mask for all layers that look alike

InplaceUpdate writes into the tensor that was given, wherever each row's tokens stand, and copies nothing: a cache is consumed by the call.
A row that sees no key at all would get the mean of all values; such rows are padding, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from kexport.graphs.dims import Shape
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import BIAS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.targets.savedmodel.builder import OPEN, Builder, Tensor, number

HEADS_FIRST = (0, 2, 1, 3)
HIDDEN = -1e30  # far below any logit, far above float32's lowest number, so that sums of several stay finite
LENGTHS = {"self": "total", "cross": "encoder_sequence"}
LENGTH_AXIS = 2


def lower_attention(node: Node, b: Builder) -> None:
    """See the module, and kexport.graphs.ops.attention for the formula."""
    keys, values, kv_heads, value_dim = keys_and_values(node, b)
    batch, sequence, heads, dim = b.type_of(node.input(QUERY)).shape
    query = b.value(node.input(QUERY))
    scale = float(attribute(node, "scale"))
    query = query * number(scale, query) if scale != 1 else query
    by_head = b.transpose(query, (batch, sequence, heads, dim), HEADS_FIRST)
    length = length_of(node, b)
    rows = _times(int(heads) // kv_heads, sequence)
    grouped = by_head if kv_heads == heads else b.reshape(by_head, (batch, kv_heads, rows, dim))
    logits = tf.matmul(grouped, keys, transpose_b=True)
    logits = logits if kv_heads == heads else b.reshape(logits, (batch, heads, sequence, length))
    shares = _shares(node, b, _finished(node, b, logits))
    shares = shares if kv_heads == heads else b.reshape(shares, (batch, kv_heads, rows, length))
    mixed = tf.matmul(shares, values)
    mixed = mixed if kv_heads == heads else b.reshape(mixed, (batch, heads, sequence, value_dim))
    b.set(node.output, b.transpose(mixed, (batch, heads, sequence, value_dim), HEADS_FIRST))


def _times(factor: int, dim: int | str) -> int | str:
    return factor * dim if isinstance(dim, int) else f"{factor}*{dim}"


def length_of(node: Node, b: Builder) -> int | str:
    """The dim that counts the keys."""
    slot = attribute(node, "slot")
    return LENGTHS[b.slots[slot].slot.kind] if slot else b.type_of(node.input(KEY)).shape[1]


def keys_and_values(node: Node, b: Builder) -> tuple[Tensor, Tensor, int, int]:
    """What is attended to, [batch, kv_heads, length, dim] each, written to the slot first where the node does; key-value heads; value dim."""
    slot = attribute(node, "slot")
    if not slot:
        key, value = (b.transpose(b.value(name), b.type_of(name).shape, HEADS_FIRST) for name in (node.input(KEY), node.input(VALUE)))
        shape = b.type_of(node.input(VALUE)).shape
        return key, value, int(shape[2]), int(shape[3])
    if attribute(node, "write"):
        for part, index in enumerate((KEY, VALUE)):
            write(b, str(slot), part, node.input(index), node.input(POSITIONS))
    tensors = b.slots[str(slot)]
    return tensors.now[0], tensors.now[1], tensors.slot.num_key_value_heads, tensors.slot.value_head_dim


def write(b: Builder, slot: str, part: int, new: str, positions: str) -> None:
    """Write value `new` [batch, sequence, kv_heads, dim] into a part of a slot, at each row's positions."""
    tensors = b.slots[slot]
    heads, dim = tensors.slot.num_key_value_heads, tensors.slot.value_head_dim if part else tensors.slot.head_dim
    indices = b.memo(("cache rows", positions, heads), lambda: _cache_rows(b, positions, heads))
    update = b.transpose(b.value(new), b.type_of(new).shape, HEADS_FIRST)
    rows = tf.reshape(tensors.now[part], [OPEN, dim])
    written = tf.raw_ops.InplaceUpdate(x=rows, i=indices, v=tf.reshape(update, [OPEN, dim]))
    tensors.now[part] = b.reshape(written, ("batch", heads, LENGTHS[tensors.slot.kind], dim))
    tensors.written = True


def _cache_rows(b: Builder, positions: str, heads: int) -> Tensor:
    """Row numbers in [batch * heads * length] of every new key: [batch * heads * sequence].

    Positions that the cache does not have are held at its ends: a host's mistake must not reach another row.
    """
    length = b.size_tensor(LENGTHS["self"])
    first = tf.reshape(tf.range(b.size_tensor("batch") * heads) * length, [OPEN, heads, 1])
    held = tf.maximum(tf.minimum(b.value(positions), length - 1), 0)
    return tf.reshape(first + tf.expand_dims(held, 1), [OPEN])


def _finished(node: Node, b: Builder, logits: Tensor) -> Tensor:
    """Dot products [batch, heads, sequence, length], already scaled, capped and with all that is added to them."""
    softcap = attribute(node, "softcap")
    if softcap:
        cap = number(float(softcap), logits)
        logits = tf.tanh(logits / cap) * cap
    addend = _addend(node, b)
    return logits if addend is None else logits + addend


def _shares(node: Node, b: Builder, logits: Tensor) -> Tensor:
    """The softmax; a sink is one more column, cut off again."""
    if not node.input(SINKS):
        return tf.nn.softmax(logits)
    sinks = tf.reshape(b.value(node.input(SINKS)), [1, OPEN, 1, 1])
    column = tf.zeros_like(logits[..., :1]) + sinks
    return tf.nn.softmax(tf.concat([logits, column], OPEN))[..., :-1]


def _addend(node: Node, b: Builder) -> Tensor | None:
    """Masks, bias and alibi in one tensor, shared by all layers that add the same."""
    causal, window = bool(attribute(node, "causal")), attribute(node, "window")
    inputs = tuple(node.input(index) for index in (POSITIONS, BIAS, MASK, KEY_MASK, SLOPES))
    key = ("addend", causal, window, inputs, length_of(node, b))
    return b.memo(key, lambda: _sum(_terms(node, b)))


def _sum(terms: list[Callable[[], Tensor]]) -> Tensor | None:
    total: Tensor | None = None
    for term in terms:
        total = term() if total is None else total + term()
    return total


def _terms(node: Node, b: Builder) -> list[Callable[[], Tensor]]:
    terms: list[Callable[[], Tensor]] = []
    length = length_of(node, b)
    if attribute(node, "causal") or attribute(node, "window"):
        terms.append(lambda: _by_position(node, b))
    if slopes := node.input(SLOPES):
        terms.append(lambda: tf.reshape(b.value(slopes), [1, OPEN, 1, 1]) * tf.cast(_key_index(b, length), tf.float32))
    if bias := node.input(BIAS):
        terms.append(lambda: b.value(bias))
    if mask := node.input(MASK):
        terms.append(lambda: _hidden(b.value(mask)))
    if key_mask := node.input(KEY_MASK):
        terms.append(lambda: _hidden(tf.cast(b.value(key_mask), tf.bool)[:, tf.newaxis, tf.newaxis, :]))
    return terms


def _key_index(b: Builder, length: int | str) -> Tensor:
    return b.memo(("keys", length), lambda: tf.range(b.size_tensor(length)))


def _by_position(node: Node, b: Builder) -> Tensor:
    """0 where a key is visible by its position, HIDDEN where it is not: [batch, 1, sequence, length]."""
    now = b.value(node.input(POSITIONS))[:, tf.newaxis, :, tf.newaxis]
    keys = _key_index(b, length_of(node, b))
    visible: Tensor | None = keys <= now if attribute(node, "causal") else None
    if window := attribute(node, "window"):
        near = now - keys < int(window)
        visible = near if visible is None else tf.logical_and(visible, near)
    return _hidden(visible)


def _hidden(visible: Tensor) -> Tensor:
    return tf.where(visible, tf.constant(0, tf.float32), tf.constant(HIDDEN, tf.float32))


def slot_shape(b: Builder, slot: str, part: int) -> Shape:
    """The shape of a slot's part as it is kept."""
    described = b.slots[slot].slot
    dim = described.value_head_dim if part else described.head_dim
    return ("batch", described.num_key_value_heads, LENGTHS[described.kind], dim)
