"""The two ways to write an attention: the ScaledDotProductAttention operator, and MatMul, Softmax, MatMul.

Both take queries [batch, heads, sequence, dim], keys and values [batch, kv heads, keys, dim] and a mask that is added to the logits.
"""

from __future__ import annotations

from kexport.graphs.dims import product
from kexport.targets.openvino.attention import SINKS, Request, repeat_heads
from kexport.targets.openvino.builder import Builder, Output, output_of
from openvino import opset13 as op


def operator(b: Builder, r: Request, query: Output, keys: Output, values: Output, mask: Output | None) -> Output:
    """ScaledDotProductAttention; over a state the plugin fuses it with the cache."""
    keys, values = repeat_heads(b, keys, r, r.head_dim), repeat_heads(b, values, r, r.value_dim)
    added = b.number(0) if mask is None else mask
    return output_of(op.scaled_dot_product_attention(query, keys, values, added, b.number(r.scale), False))


def plain(b: Builder, r: Request, query: Output, keys: Output, values: Output, mask: Output | None) -> Output:
    """Query heads that share a key-value head are laid below each other, so that keys and values are never repeated."""
    rows = product((r.sequence, r.heads // r.kv_heads))
    per_head = (r.batch, r.heads, r.sequence)
    grouped = b.reshape(query, (*per_head, r.head_dim), (r.batch, r.kv_heads, rows, r.head_dim))
    products = b.reshape(op.matmul(grouped, keys, False, True), (r.batch, r.kv_heads, rows, r.keys), (*per_head, r.keys))
    weights = _softmax(b, r, _finished(b, r, products, mask))
    mixed = op.matmul(b.reshape(weights, (*per_head, r.keys), (r.batch, r.kv_heads, rows, r.keys)), values, False, False)
    return b.reshape(mixed, (r.batch, r.kv_heads, rows, r.value_dim), (*per_head, r.value_dim))


def _finished(b: Builder, r: Request, products: Output, mask: Output | None) -> Output:
    """Scaled, capped and masked."""
    if r.softcap:
        logits = op.multiply(op.tanh(op.multiply(products, b.number(r.scale / r.softcap))), b.number(r.softcap))
    else:
        logits = op.multiply(products, b.number(r.scale))
    return output_of(logits if mask is None else op.add(logits, mask))


def _softmax(b: Builder, r: Request, logits: Output) -> Output:
    """Over the keys; a sink is one more key whose weight goes nowhere."""
    if not r.input(SINKS):
        return output_of(op.softmax(logits, -1))
    column = b.reshape(b.value(r.input(SINKS)), (r.heads,), (1, r.heads, 1, 1))
    shape = op.concat([b.dim(r.batch), b.integers(r.heads), b.dim(r.sequence), b.integers(1)], 0)
    weights = op.softmax(op.concat([logits, op.broadcast(column, shape)], -1), -1)
    return output_of(op.slice(weights, b.integers(0), b.integers(-1), b.integers(1), b.integers(3)))
