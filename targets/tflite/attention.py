"""attention in operators that XNNPACK takes: two BATCH_MATMULs and a SOFTMAX, query heads of one key-value head laid below each other.

    query   [1, sequence, heads, dim] -> [1, kv_heads, group * sequence, dim]       no repeat of keys or values
    cache   [1, kv_heads, length, dim], written in place by DYNAMIC_UPDATE_SLICE at the first position
    hidden keys get a large negative number added, made by arithmetic (MINIMUM, MUL): comparisons would leave XNNPACK

A row that sees no key at all would get the mean of all values; such rows are padding, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import BIAS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.runtime.contract.errors import UnsupportedError
from kexport.targets.tflite.builder import Builder, Tensor

HEADS_FIRST = (0, 2, 1, 3)
HIDDEN = 1e30  # times the distance to the nearest visible key; far above any logit, and in float32's range up to 10^8 positions
POSITION_INPUT = "positions"
KEY_AXIS = 3


def lower_attention(node: Node, b: Builder) -> None:
    """See the module, and kexport.graphs.ops.attention for the formula."""
    keys, values = keys_and_values(node, b)
    query = b.value(node.input(QUERY))
    _, sequence, heads, dim = query.shape
    _, kv_heads, length, value_dim = values.shape
    scaled = b.binary("MUL", query, b.number(float(attribute(node, "scale"))))
    rows = heads // kv_heads * sequence
    grouped = b.reshape(b.transpose(scaled, HEADS_FIRST), (1, kv_heads, rows, dim))
    logits = b.op("BATCH_MATMUL", [grouped, keys], query.dtype, (1, kv_heads, rows, length), adj_y=True)
    logits = _finished(node, b, b.reshape(logits, (1, heads, sequence, length)))
    shares = b.reshape(_shares(node, b, logits), (1, kv_heads, rows, length))
    mixed = b.op("BATCH_MATMUL", [shares, values], query.dtype, (1, kv_heads, rows, value_dim))
    b.set(node.output, b.transpose(b.reshape(mixed, (1, heads, sequence, value_dim)), HEADS_FIRST))


def keys_and_values(node: Node, b: Builder) -> tuple[Tensor, Tensor]:
    """What is attended to, [1, kv_heads, length, dim] each; written to the slot first where the node does."""
    slot = attribute(node, "slot")
    if not slot:
        key, value = (b.transpose(b.value(node.input(index)), HEADS_FIRST) for index in (KEY, VALUE))
        return key, value
    if attribute(node, "write"):
        for part, index in enumerate((KEY, VALUE)):
            write(node, b, str(slot), part, b.value(node.input(index)), node.input(POSITIONS))
    return attended(b, str(slot), 0), attended(b, str(slot), 1)


def write(node: Node, b: Builder, slot: str, part: int, new: Tensor, positions: str) -> None:
    """Write `new` [1, sequence, kv_heads, dim] into a part of a slot, from the row's first position on.

    Raises:
        UnsupportedError: the positions are not the graph's own input, of which alone it is known that they count on by one.
    """
    if positions != POSITION_INPUT or positions not in b.graph.inputs:
        raise UnsupportedError(
            "KX232", f"the cache of layer {node.layer or node.output} is written at computed positions; TFLite writes one block"
        )
    tensors = b.slots[slot]
    start = b.memo("cache start", lambda: _start(b))
    past = tensors.now(part)
    update = b.transpose(new, HEADS_FIRST)
    tensors.present[part] = b.op("DYNAMIC_UPDATE_SLICE", [past, update, start], past.dtype, past.shape)


def attended(b: Builder, slot: str, part: int) -> Tensor:
    """A slot's part as far as this signature looks at it."""
    whole = b.slots[slot].now(part)
    length = b.sizes["total"] if b.slots[slot].slot.kind == "self" else whole.shape[2]
    return b.part(whole, (0, 0, 0, 0), (*whole.shape[:2], length, whole.shape[3]))


def _start(b: Builder) -> Tensor:
    positions = b.value(POSITION_INPUT)
    first = b.reshape(b.part(b.reshape(positions, (positions.shape[1],)), (0,), (1,)), ())
    zero = b.constant(np.int32(0))
    return b.op("PACK", [zero, zero, first, zero], "int32", (4,), values_count=4, axis=0)


def _finished(node: Node, b: Builder, logits: Tensor) -> Tensor:
    """Dot products [1, heads, sequence, length], already scaled, capped and with all that is added to them."""
    softcap = attribute(node, "softcap")
    if softcap:
        capped = b.unary("TANH", b.binary("DIV", logits, b.number(float(softcap))))
        logits = b.binary("MUL", capped, b.number(float(softcap)))
    addend = _addend(node, b, logits)
    return logits if addend is None else b.binary("ADD", logits, addend)


def _shares(node: Node, b: Builder, logits: Tensor) -> Tensor:
    """The softmax; a sink is one more column, cut off again."""
    if not node.input(SINKS):
        return b.unary("SOFTMAX", logits, beta=1.0)
    shape = (*logits.shape[:KEY_AXIS], 1)
    sinks = b.reshape(b.value(node.input(SINKS)), (1, logits.shape[1], 1, 1))
    column = sinks if sinks.shape == shape else b.op("BROADCAST_TO", [sinks, b.integers(*shape)], logits.dtype, shape)
    return b.part(b.unary("SOFTMAX", b.joined([logits, column], KEY_AXIS), beta=1.0), (0, 0, 0, 0), logits.shape)


def _addend(node: Node, b: Builder, logits: Tensor) -> Tensor | None:
    """Masks, bias and alibi in one tensor, shared by all layers that add the same."""
    causal, window = bool(attribute(node, "causal")), attribute(node, "window")
    names = tuple(node.input(index) for index in (POSITIONS, BIAS, MASK, KEY_MASK, SLOPES))
    key = ("addend", causal, window, names, logits.shape[2:])
    return b.memo(key, lambda: _sum(b, _terms(node, b, logits)))


def _sum(b: Builder, terms: list[Callable[[], Tensor]]) -> Tensor | None:
    total: Tensor | None = None
    for term in terms:
        total = term() if total is None else b.binary("ADD", total, term())
    return total


def _terms(node: Node, b: Builder, logits: Tensor) -> list[Callable[[], Tensor]]:
    _, heads, _, length = logits.shape
    terms: list[Callable[[], Tensor]] = []
    window = attribute(node, "window")
    window = None if window and attribute(node, "causal") and int(window) >= length else window
    if attribute(node, "causal") or window:
        terms.append(lambda: _by_position(node, b, bool(attribute(node, "causal")), window, length))
    if slopes := node.input(SLOPES):
        terms.append(lambda: _alibi(b, slopes, heads, length))
    if bias := node.input(BIAS):
        terms.append(lambda: _above_hidden(b, bias) if node.input(KEY_MASK) else b.value(bias))
    if mask := node.input(MASK):
        terms.append(lambda: _hidden(b, b.as_float(mask)))
    if key_mask := node.input(KEY_MASK):
        terms.append(lambda: _hidden(b, b.reshape(b.as_float(key_mask), (1, 1, 1, length))))
    return terms


def _by_position(node: Node, b: Builder, causal: bool, window: int | None, length: int) -> Tensor:
    """0 where a key is visible, at most -HIDDEN where it is not: [1, 1, sequence, length]."""
    positions = b.value(node.input(POSITIONS))
    now = b.reshape(b.cast(positions, "float32"), (1, 1, positions.shape[1], 1))
    keys, zero = b.constant(np.arange(length, dtype=np.float32).reshape(1, 1, 1, length)), b.number(0)
    ahead = b.binary("SUB", now, keys)
    result: Tensor | None = b.binary("MINIMUM", ahead, zero) if causal else None
    if window:
        behind = b.binary("MINIMUM", b.binary("SUB", b.number(int(window) - 1), ahead), zero)
        result = behind if result is None else b.binary("MINIMUM", result, behind)
    assert result is not None
    return b.binary("MUL", result, b.number(HIDDEN))


def _alibi(b: Builder, slopes: str, heads: int, length: int) -> Tensor:
    """slopes[h] * key index: [1, heads, 1, length]."""
    keys = np.arange(length, dtype=np.float32)
    if slopes in b.graph.constants:
        return b.constant(b.graph.constants[slopes].reshape(1, heads, 1, 1).astype(np.float32) * keys)
    return b.binary("MUL", b.reshape(b.value(slopes), (1, heads, 1, 1)), b.constant(keys))


def _above_hidden(b: Builder, bias: str) -> Tensor:
    """A bias that may hide everything from a token, which then sees the mean of all keys: of those that the mask shows, for what that hides lies lower still."""
    return b.binary("MAXIMUM", b.value(bias), b.number(-HIDDEN))


def _hidden(b: Builder, visible: Tensor) -> Tensor:
    """0 for 1, -HIDDEN for 0."""
    return b.binary("MUL", b.binary("SUB", visible, b.number(1)), b.number(HIDDEN))
