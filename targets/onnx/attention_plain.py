"""Attention as MatMul, Softmax, MatMul: takes every form the op has, at the cost of logits as tensors and of a Slice of the cache."""

from __future__ import annotations

from kexport.graphs.dims import product
from kexport.targets.onnx.attention import HEADS_FIRST, QUERY, SINKS, Request, additive_bias, keys_and_values
from kexport.targets.onnx.builder import Builder, Tensor


def render(b: Builder, r: Request) -> None:
    """Write the operators."""
    keys, values = keys_and_values(b, r)
    query = b.transpose(b.value(r.input(QUERY)), HEADS_FIRST)
    group = product((r.sequence, r.heads // r.kv_heads))
    grouped = b.reshape(query, (r.batch, r.kv_heads, group, r.head_dim))
    products = b.op("MatMul", [grouped, b.transpose(keys, (0, 1, 3, 2))], "float32", (r.batch, r.kv_heads, group, r.keys))
    logits = b.reshape(products, (r.batch, r.heads, r.sequence, r.keys))
    weights = _softmax(b, r, _finished_logits(b, r, logits))
    per_group = b.reshape(weights, (r.batch, r.kv_heads, group, r.keys))
    mixed = b.op("MatMul", [per_group, values], "float32", (r.batch, r.kv_heads, group, r.value_dim))
    b.set(r.node.output, b.transpose(b.reshape(mixed, (r.batch, r.heads, r.sequence, r.value_dim)), HEADS_FIRST))


def _finished_logits(b: Builder, r: Request, logits: Tensor) -> Tensor:
    """Scaled, capped, biased and masked."""
    logits = b.op("Mul", [logits, b.number(r.scale)], logits.dtype, logits.shape)
    if r.softcap:
        logits = _capped(b, logits, r.softcap)
    bias = additive_bias(b, r, position_masks=True)
    return logits if bias is None else b.op("Add", [logits, bias], logits.dtype, logits.shape)


def _capped(b: Builder, logits: Tensor, softcap: float) -> Tensor:
    cap = b.number(softcap)
    bounded = b.op("Tanh", [b.op("Div", [logits, cap], logits.dtype, logits.shape)], logits.dtype, logits.shape)
    return b.op("Mul", [bounded, cap], logits.dtype, logits.shape)


def _softmax(b: Builder, r: Request, logits: Tensor) -> Tensor:
    """Over the keys; a sink is one more key whose weight goes nowhere."""
    sinks = b.optional(r.input(SINKS))
    if sinks is None:
        return b.op("Softmax", [logits], logits.dtype, logits.shape, axis=-1)
    column = b.expand(b.reshape(sinks, (1, r.heads, 1, 1)), (*logits.shape[:3], 1))
    with_sink = b.op("Concat", [logits, column], logits.dtype, (*logits.shape[:3], "keys_and_sink"), axis=-1)
    weights = b.op("Softmax", [with_sink], logits.dtype, with_sink.shape, axis=-1)
    bounds = [b.integers(0), b.integers(-1), b.integers(-1)]
    return b.op("Slice", [weights, *bounds], logits.dtype, logits.shape)
