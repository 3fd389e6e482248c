"""delta_rule -> one token's update, or the parallel form over a chunk; no loop over tokens in either.

Per head, with L = log_decay summed up to a token (included), P the same without it, and all sums over the call's earlier tokens j:

    erased[t]  = (erase[t] e^P[t]) S_0 + sum over j < t of  M[t,j] erased[j] + N[t,j] value[j]
    M[t,j]     = erase[t] . e^(P[t] - L[j]) write[j]              N[t,j] = erase[t] . e^(P[t] - L[j]) key[j]
    output[t]  = (query[t] e^L[t]) S_0 + sum over j <= t of  (query[t] . e^(L[t] - L[j]) write[j]) erased[j] + (...key[j]) value[j]
    S          = e^L[last] S_0 + sum over all j of  e^(L[last] - L[j]) (write[j] erased[j] + key[j] value[j])

so erased = (1 - M)^-1 (...). M is strictly lower triangular; its inverse is built from blocks of 1, 2, 4, ... tokens: with X the inverse of
the blocks on the diagonal and O what M has below them inside blocks of twice the size, the next X is X + X O X. That is forward substitution in
blocks: unlike powers of M, its numbers stay as small as the result's. Exponents are differences of sums, never positive, so nothing overflows.

A decay per head enters as a matrix over pairs of tokens; one per channel as a tensor over pairs and channels, which is why its chunks are short.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import Dim
from kexport.graphs.ir import Node
from kexport.graphs.ops.delta_rule import INPUTS
from kexport.graphs.passes.decompose.registry import Emit, decomposes

HEADS_FIRST = (0, 2, 1, 3)
LAST_TWO = (0, 1, 3, 2)
TOKENS, CHANNELS, PAIR_CHANNELS = 2, 3, 4


@decomposes("delta_rule")
def delta_rule(node: Node, emit: Emit) -> tuple[str, str]:
    """See the module. One token where the sequence is known to be 1."""
    one_token = emit.type_of(emit.input(0)).shape[1] == 1
    return _step(emit) if one_token else _chunk(emit)


def _heads_first(emit: Emit) -> list[str]:
    """query, key, value, log_decay, erase, write as [batch, heads, sequence, channels]."""
    return [emit("transpose", emit.input(index), permutation=HEADS_FIRST) for index in range(len(INPUTS) - 1)]


def turned(emit: Emit, value: str) -> str:
    """The last two axes exchanged."""
    return emit("transpose", value, permutation=LAST_TWO)


def _step(emit: Emit) -> tuple[str, str]:
    query, key, value, decay, erase, write = _heads_first(emit)
    state = emit.input(len(INPUTS) - 1)
    erased = emit("matmul", erase, state)
    kept = emit("mul", turned(emit, emit("exp", decay)), state)
    written = emit("add", emit("matmul", turned(emit, write), erased), emit("matmul", turned(emit, key), value))
    new = emit("add", kept, written)
    return emit("transpose", emit("matmul", query, new), permutation=HEADS_FIRST), new


def _chunk(emit: Emit) -> tuple[str, str]:
    query, key, value, decay, erase, write = _heads_first(emit)
    state = emit.input(len(INPUTS) - 1)
    pairs = Pairs(emit, decay)
    from_state = emit("matmul", emit("mul", erase, emit("exp", pairs.before)), state)
    from_values = emit("matmul", pairs.products(erase, key, pairs.before, pairs.earlier), value)
    inverse = inverse_of(emit, pairs.products(erase, write, pairs.before, pairs.earlier), pairs)
    erased = emit("matmul", inverse, emit("add", from_state, from_values))
    output = emit(
        "add",
        emit("matmul", emit("mul", query, emit("exp", pairs.upto)), state),
        emit(
            "add",
            emit("matmul", pairs.products(query, write, pairs.upto, pairs.not_later), erased),
            emit("matmul", pairs.products(query, key, pairs.upto, pairs.not_later), value),
        ),
    )
    whole = emit("reduce_sum", decay, axes=(TOKENS,), keepdims=True)
    remaining = emit("exp", never_positive(emit, emit("sub", whole, pairs.upto)))
    written = [emit("matmul", turned(emit, emit("mul", left, remaining)), right) for left, right in ((write, erased), (key, value))]
    new = emit("add", emit("mul", turned(emit, emit("exp", whole)), state), emit("add", *written))
    return emit("transpose", output, permutation=HEADS_FIRST), new


def never_positive(emit: Emit, value: str) -> str:
    """Differences of sums of decays, without what rounding adds above 0."""
    return emit("min", value, emit.number(0, value))


class Pairs:
    """Pairs of tokens (t, j): which come in order, how much of j is left at t, and products over channels weighted by that.

    `upto` and `before`: log decays summed with and without the token itself, [batch, heads, sequence, 1 or channels]. `earlier`, `not_later`:
    1 where j < t, j <= t, else 0, [sequence, sequence]. `tokens`: 0, 1, 2, ... int32.
    """

    def __init__(self, emit: Emit, decay: str) -> None:
        self._emit, self._decay = emit, decay
        self.sequence: Dim = emit.type_of(decay).shape[TOKENS]
        self._per_channel = emit.type_of(decay).shape[CHANNELS] != 1
        self.tokens = emit("range", size=self.sequence, dtype="int32")
        column, row = emit.reshape(self.tokens, self.sequence, 1), emit.reshape(self.tokens, 1, self.sequence)
        dtype = emit.type_of(decay).dtype
        self.earlier = emit("cast", emit("lt", row, column), dtype=dtype)
        self.not_later = emit("cast", emit("le", row, column), dtype=dtype)
        self.upto = emit("matmul", self.not_later, decay)
        self.before = emit("sub", self.upto, decay)

    def products(self, left: str, right: str, left_decay: str, order: str) -> str:
        """[batch, heads, t, j]: left[t] . e^(left_decay[t] - upto[j]) right[j] for pairs in `order`, 0 for the others."""
        emit = self._emit
        if not self._per_channel:
            exponents = emit("sub", left_decay, turned(emit, self.upto))
            weights = emit("mul", emit("exp", never_positive(emit, exponents)), order)
            return emit("mul", emit("matmul", left, turned(emit, right)), weights)
        exponents = emit("sub", self._at(left_decay, TOKENS + 1), self._at(self.upto, TOKENS))
        weighted = emit("mul", emit("exp", never_positive(emit, exponents)), self._at(left, TOKENS + 1))
        summed = emit("reduce_sum", emit("mul", weighted, self._at(right, TOKENS)), axes=(PAIR_CHANNELS,), keepdims=False)
        return emit("mul", summed, order)

    def _at(self, value: str, axis: int) -> str:
        """[batch, heads, sequence, channels] with a new axis of 1 at `axis`."""
        shape = self._emit.type_of(value).shape
        return self._emit.reshape(value, *shape[:axis], 1, *shape[axis:])


def inverse_of(emit: Emit, lower: str, pairs: Pairs) -> str:
    """(1 - lower)^-1 for a strictly lower triangular `lower` [..., sequence, sequence], see the module."""
    longest = int(emit.attr("chunk")) if isinstance(pairs.sequence, str) else int(pairs.sequence)
    table = _levels(longest)
    levels = emit("gather", emit("gather", emit.graph.add_constant(table), pairs.tokens, axis=0), pairs.tokens, axis=1)
    row, column = emit.reshape(pairs.tokens, 1, pairs.sequence), emit.reshape(pairs.tokens, pairs.sequence, 1)
    dtype = emit.type_of(lower).dtype
    inverse = emit("cast", emit("eq", row, column), dtype=dtype)
    for level in range(int(table.max()) + 1):
        of_level = emit("cast", emit("eq", levels, emit.graph.add_constant(np.int32(level))), dtype=dtype)
        below = emit("mul", lower, of_level)
        if level == 0:
            inverse = emit("add", inverse, below)
        else:
            inverse = emit("add", inverse, emit("matmul", emit("matmul", inverse, below), inverse))
    return inverse


def _levels(size: int) -> np.ndarray:
    """int32 [size, size]: for i != j the exponent of the smallest power-of-two block below which i and j part; -1 on the diagonal."""
    i, j = np.arange(size)[:, None], np.arange(size)[None, :]
    return np.array([[int(number).bit_length() - 1 for number in row] for row in i ^ j], np.int32)
