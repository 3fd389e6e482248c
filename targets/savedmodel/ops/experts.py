"""experts -> in a step of one row, slices of the experts' matrices, which TensorFlow makes without a copy; else gathered or all of them.

    decode, one row             a slice of one expert along the first axis shares its memory: a step reads what it takes, once
    decode, more rows           gathered where the rows take fewer than there are (copies; a loop of slices was measured ten times slower)
    more rows still, prefill    every expert for every token
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.weights import Weight
from kexport.targets import experts_request
from kexport.targets.experts_request import Request
from kexport.targets.savedmodel.builder import OPEN, Builder, Tensor, number
from kexport.targets.savedmodel.lowering import lowers
from kexport.targets.savedmodel.ops.activations import gelu

FORM, DENSE_FORM = "StridedSlice-MatMul", "BatchMatMulV2 over all experts"
Stack = Callable[[Weight], Tensor]  # the numbers of a weight, [experts, ...]


@lowers("experts")
def lower(node: Node, b: Builder) -> None:
    """By the signature, and by how many rows a call has."""
    r = experts_request.read(node, b.graph)
    x, ids, shares = (tf.reshape(b.value(name), [OPEN, size]) for name, size in ((r.x, r.hidden), (r.ids, r.taken), (r.shares, r.taken)))
    sparse = b.one_token and r.taken < r.count
    if sparse:
        made = _step(r, b, x, ids, shares)
    else:
        made = _dense(r, b.weight, x, ids, shares)
    b.set(node.output, b.reshape(made, b.type_of(node.output).shape))
    b.experts.append(r.record(FORM if sparse else DENSE_FORM, sparse=sparse, reason="" if sparse else _why_dense(r, b)))


def _why_dense(r: Request, b: Builder) -> str:
    return "a token takes them all" if b.one_token else "several tokens"


def _step(r: Request, b: Builder, x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """[rows, hidden]. What a branch reads it reads itself, so that a call reads what its own branch needs."""
    weights = (r.halves(), r.halved_bias(), r.rows(r.down), r.down_bias)
    variables = {weight: b.part(weight, r.taken / r.count) for weight in weights if weight is not None}

    def one() -> Tensor:
        return _one_row(r, lambda weight: tf.convert_to_tensor(variables[weight]), x, ids, shares)

    def gathered() -> Tensor:
        return _gathered(r, lambda weight: tf.cast(tf.gather(variables[weight], ids), weight.dtype), x, shares)

    def dense() -> Tensor:
        return _dense(r, lambda weight: tf.cast(tf.convert_to_tensor(variables[weight]), weight.dtype), x, ids, shares)

    rows = b.size_tensor(r.tokens)
    made = tf.cond(rows < 2, one, lambda: tf.cond(rows * r.taken < r.count, gathered, dense))
    return tf.ensure_shape(made, [None, r.hidden])


def _one_row(r: Request, stack: Stack, x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    # Not a reshape to one row: TensorFlow's optimizer would conclude from it, in a branch or not, that every call has one row, and decide the branch.
    x, total = tf.slice(x, [0, 0], [1, r.hidden]), None
    halves, half_bias, down, down_bias = r.halves(), r.halved_bias(), r.rows(r.down), r.down_bias
    for place in range(r.taken):
        expert = ids[0, place]
        both = _product(x, _slice(stack, halves, expert), None if half_bias is None else _slice(stack, half_bias, expert))
        made = _product(_gated(r, both), _slice(stack, down, expert), None if down_bias is None else _slice(stack, down_bias, expert))
        weighted = made * shares[0, place]
        total = weighted if total is None else total + weighted
    return total


def _slice(stack: Stack, weight: Weight, expert: Tensor) -> Tensor:
    """What `weight` has for one expert. Of narrow numbers only these are widened."""
    whole = stack(weight)
    return tf.cast(tf.reshape(tf.strided_slice(whole, [expert], [expert + 1]), list(weight.shape[1:])), weight.dtype)


def _gathered(r: Request, taken: Stack, x: Tensor, shares: Tensor) -> Tensor:
    """`taken`: of every row its experts' numbers, [rows, taken, ...]."""
    both = _product(tf.reshape(x, [OPEN, 1, 1, r.hidden]), taken(r.halves()), _stacked(taken, r.halved_bias()))
    made = _product(_gated(r, both), taken(r.rows(r.down)), _stacked(taken, r.down_bias))
    return tf.reduce_sum(tf.reshape(made, [OPEN, r.taken, r.hidden]) * shares[:, :, None], 1)


def _dense(r: Request, stack: Stack, x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    both = _product(x, stack(r.halves()), _stacked(stack, r.halved_bias()))
    made = _product(_gated(r, both), stack(r.rows(r.down)), _stacked(stack, r.down_bias))
    weights = tf.reduce_sum(tf.one_hot(ids, r.count) * shares[:, :, None], 1)
    return tf.reduce_sum(made * tf.transpose(weights)[:, :, None], 0)


def _product(x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    made = tf.matmul(x, rows, transpose_b=True)
    return made if bias is None else made + bias


def _stacked(stack: Stack, bias: Weight | None) -> Tensor | None:
    """A bias of several experts as the summand of [..., rows, out]."""
    return None if bias is None else stack(bias)[..., None, :]


def _gated(r: Request, both: Tensor) -> Tensor:
    gate, up = tf.split(both, 2, -1)
    if r.limit is not None:
        limit, negative = number(r.limit, gate), number(-r.limit, gate)
        gate, up = tf.minimum(gate, limit), tf.maximum(tf.minimum(up, limit), negative)
    return _activated(r, gate) * (up + number(r.offset, up) if r.offset else up)


def _activated(r: Request, gate: Tensor) -> Tensor:
    if r.activation == "relu":
        return tf.nn.relu(gate)
    if r.activation != "silu":
        return gelu(gate, approximate=r.activation == "gelu_tanh")
    return gate * tf.sigmoid(gate if r.alpha == 1 else gate * number(r.alpha, gate))
