"""delta_rule: a linear recurrence whose state is a matrix per head (Gated DeltaNet, Yang et al. 2024; RWKV-7, Peng et al. 2025).

With the state S[b,h] of shape [key_dim, value_dim], for the tokens t of a call in order:

    S_t = exp(log_decay[t]) * S_(t-1) + write[t] (erase[t] . S_(t-1)) + key[t] value[t]        (row-wise decay; outer products)
    output[t] = query[t] . S_t

Gated DeltaNet: erase = -beta exp(g) key, write = key, value = beta value. RWKV-7: erase = -kk, write = kk a (its own state is the transpose).

`chunk` is how many tokens of one call its parallel form takes at most; calls of more tokens are split by whoever makes them.

delta_rule_rows is the same over whole rows, from a state of zeros that nobody asks for afterwards: rows of at most `longest` tokens, of which `chunk` at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

INPUTS = ("query", "key", "value", "log_decay", "erase", "write", "state")
QUERY, KEY, VALUE, LOG_DECAY, ERASE, WRITE, STATE = range(len(INPUTS))
LONGEST = 1 << 16  # tokens of a row, until it is known how many an artifact takes


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (output,) = _infer_rows(graph, node, types[:STATE])
    query, state = types[QUERY], types[STATE]
    assert query and state
    batch, _, heads, key_dim = query.shape
    if state.shape != (batch, heads, key_dim, output.shape[3]):
        raise refuse(node, f"{state} is no state for {query} and {output}")
    return (output, state)


def _infer_rows(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    query, key, value, decay, erase, write = types
    assert query and key and value and decay and erase and write
    batch, sequence, heads, key_dim = query.shape
    fits = (
        key.shape == erase.shape == write.shape == query.shape
        and value.shape[:3] == query.shape[:3]
        and decay.shape[:3] == query.shape[:3]
        and decay.shape[3] in (1, key_dim)
    )
    if not fits:
        raise refuse(node, f"its inputs do not fit: {', '.join(str(type_) for type_ in types)}")
    return (TensorType(value.dtype, (batch, sequence, heads, value.shape[3])),)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    query, key, value, decay, erase, write, state = arrays
    output = np.zeros_like(value)
    for t in range(query.shape[1]):
        erased = np.einsum("bhk,bhkv->bhv", erase[:, t], state)
        state = (
            np.exp(decay[:, t])[..., None] * state
            + write[:, t][..., None] * erased[:, :, None, :]
            + key[:, t][..., None] * value[:, t][:, :, None, :]
        )
        output[:, t] = np.einsum("bhk,bhkv->bhv", query[:, t], state)
    return output, state


def _evaluate_rows(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    batch, _, heads, key_dim = arrays[QUERY].shape
    state = np.zeros((batch, heads, key_dim, arrays[VALUE].shape[3]), arrays[VALUE].dtype)
    return _evaluate(evaluation, node, [*arrays, state])[:1]


define(
    "delta_rule",
    "a decayed matrix state per head that each token corrects, read by queries; gives [batch, sequence, heads, value_dim] and the state",
    inputs=INPUTS,
    attrs={"chunk": REQUIRED},
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
define(
    "delta_rule_rows",
    "delta_rule over whole rows of up to `longest` tokens, from a state of zeros; gives [batch, sequence, heads, value_dim]",
    inputs=INPUTS[:STATE],
    attrs={"chunk": REQUIRED, "longest": LONGEST},
    infer=_infer_rows,
    evaluate=_evaluate_rows,
    intrinsic=True,
)
