"""delta_rule_rows -> the parallel form of delta_rule over all chunks of a row at once, and a scan over their states; no loop over tokens or chunks.

A chunk takes the state S before it to A S + B and reads it once (see delta_rule for the letters; X is (1 - M)^-1):

    A = diag(e^L[last]) + sum over j of e^(L[last] - L[j]) write[j] (X erase e^P)[j]
    B = sum over j of e^(L[last] - L[j]) (write[j] (X N value)[j] + key[j] value[j])

Two chunks in a row are a chunk again: A2 A1, A2 B1 + B2. So after doubling the distance (1, 2, 4, ... chunks) until it is the whole row, B is what is left
of all chunks up to a place: the state after it. Decays and corrections never lengthen a vector, so products of A do not grow.

The last chunk is filled with the row's last token, again and again: what comes after a token does not reach it.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import Dim, pieces, product
from kexport.graphs.ir import Node
from kexport.graphs.ops.delta_rule import ERASE, KEY, LOG_DECAY, QUERY, VALUE, WRITE
from kexport.graphs.passes.decompose.delta_rule import HEADS_FIRST, TOKENS, Pairs, inverse_of, never_positive, turned
from kexport.graphs.passes.decompose.registry import Emit, decomposes

ROW_AXIS = 1


@decomposes("delta_rule_rows")
def delta_rule_rows(node: Node, emit: Emit) -> str:
    """See the module."""
    chunks = _Chunks(emit)
    query, key, value, decay, erase, write = (chunks.cut(index) for index in (QUERY, KEY, VALUE, LOG_DECAY, ERASE, WRITE))
    pairs = Pairs(emit, decay)
    inverse = inverse_of(emit, pairs.products(erase, write, pairs.before, pairs.earlier), pairs)
    of_state = emit("matmul", inverse, emit("mul", erase, emit("exp", pairs.before)))
    of_values = emit("matmul", inverse, emit("matmul", pairs.products(erase, key, pairs.before, pairs.earlier), value))
    whole = emit("reduce_sum", decay, axes=(TOKENS,), keepdims=True)
    remaining = emit("exp", never_positive(emit, emit("sub", whole, pairs.upto)))
    write_last, key_last = (turned(emit, emit("mul", part, remaining)) for part in (write, key))
    left = emit("add", emit("mul", chunks.identity(), emit("exp", whole)), emit("matmul", write_last, of_state))
    added = emit("add", emit("matmul", write_last, of_values), emit("matmul", key_last, value))
    state = chunks.states_before(left, added)
    erased = emit("add", emit("matmul", of_state, state), of_values)
    from_state = emit("matmul", emit("mul", query, emit("exp", pairs.upto)), state)
    from_erased = emit("matmul", pairs.products(query, write, pairs.upto, pairs.not_later), erased)
    from_values = emit("matmul", pairs.products(query, key, pairs.upto, pairs.not_later), value)
    return chunks.joined(emit("add", from_state, emit("add", from_erased, from_values)))


class _Chunks:
    """Rows cut into chunks, [batch * chunks, heads, tokens of a chunk, channels], and put together again."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._batch, self._sequence, self._heads, self._key_dim = emit.type_of(emit.input(QUERY)).shape
        length = self._sequence
        self._size = min(int(emit.attr("chunk")), length) if isinstance(length, int) else int(emit.attr("chunk"))
        self._count = pieces(length, self._size)
        most = pieces(int(emit.attr("longest")), self._size)
        self._most = self._count if isinstance(self._count, int) else int(most)
        self._places = emit("range", size=self._count, dtype="int32")
        self._tokens = emit("min", emit("range", size=product((self._count, self._size)), dtype="int32"), self._last_token())

    def _last_token(self) -> str:
        emit, one = self._emit, self._emit.graph.add_constant(np.int32(1))
        return emit("sub", emit("dim_size", dim=self._sequence), one)

    def cut(self, index: int) -> str:
        """The node's input `index` in chunks."""
        emit = self._emit
        x = emit.input(index)
        channels = emit.type_of(x).shape[3]
        rows = emit("gather", x, self._tokens, axis=ROW_AXIS)
        return emit("transpose", emit.reshape(rows, product((self._batch, self._count)), self._size, self._heads, channels), permutation=HEADS_FIRST)

    def joined(self, x: str) -> str:
        """[batch, sequence, heads, channels] of what lies in chunks."""
        emit = self._emit
        channels = emit.type_of(x).shape[3]
        rows = emit.reshape(emit("transpose", x, permutation=HEADS_FIRST), self._batch, product((self._count, self._size)), self._heads, channels)
        return emit("gather", rows, emit("range", size=self._sequence, dtype="int32"), axis=ROW_AXIS)

    def identity(self) -> str:
        """[key dim, key dim]: 1 on the diagonal."""
        dtype = np.dtype(self._emit.type_of(self._emit.input(QUERY)).dtype)
        return self._emit.graph.add_constant(np.eye(int(self._key_dim), dtype=dtype))

    def states_before(self, left: str, added: str) -> str:
        """The state before each chunk, where one takes S to `left` S + `added` and the first begins with zeros."""
        emit, distance = self._emit, 1
        while distance < self._most:
            earlier_left, earlier_added = (self._earlier(x, distance) for x in (left, added))
            added = emit("add", added, emit("matmul", left, earlier_added))
            left = emit("matmul", left, earlier_left)
            distance *= 2
        return self._earlier(added, 1)

    def _earlier(self, x: str, distance: int) -> str:
        """x [batch * chunks, heads, rows, columns] of the chunk `distance` before each, zeros where there is none."""
        emit, step = self._emit, self._emit.graph.add_constant(np.int32(distance))
        shape = emit.type_of(x).shape
        flat: tuple[Dim, ...] = (self._batch, self._count, product(shape[1:]))
        places = emit("max", emit("sub", self._places, step), emit.graph.add_constant(np.int32(0)))
        there = emit("cast", emit("le", step, self._places), dtype=emit.type_of(x).dtype)
        moved = emit("gather", emit.reshape(x, *flat), places, axis=ROW_AXIS)
        return emit.reshape(emit("mul", moved, emit.reshape(there, 1, self._count, 1)), *shape)
