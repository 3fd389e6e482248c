"""What the attention mask says about a call: how many tokens each row holds in all, and how many of this call's are real.

`attention_mask` is int64 [batch, total], right padded: row b has as many ones as it holds tokens, the new ones included.
"""

from __future__ import annotations

from typing import NamedTuple

from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL
from kexport.runtime.contract import names
from kexport.targets.onnx.builder import Builder, Tensor


class RowEnds(NamedTuple):
    """int32: index of each row's last token [batch], and the largest number of tokens in a row, a scalar."""

    last_index: Tensor
    total: Tensor


def row_ends(b: Builder) -> RowEnds:
    """The two counts GroupQueryAttention takes, made once."""

    def make() -> RowEnds:
        last = b.op("Sub", [_tokens_held(b), b.integers(1)], "int64", (BATCH,))
        total = b.op("Squeeze", [b.cast(b.dim(TOTAL), "int32"), b.integers(0)], "int32", ())
        return RowEnds(b.cast(last, "int32"), total)

    result: RowEnds = b.memo("row ends", make)
    return result


def lengths(b: Builder) -> Tensor:
    """Real tokens of this call per row, int64 [batch]: clip(tokens held - (total - sequence), 1, sequence); all of them without a mask."""
    if names.ATTENTION_MASK not in b.inputs:
        return b.expand(b.dim(SEQUENCE), (BATCH,))
    total = b.inputs[names.ATTENTION_MASK].shape[1]
    held = _tokens_held(b)
    past = b.op("Sub", [b.dim(total), b.dim(SEQUENCE)], "int64", (1,))
    new = b.op("Sub", [held, past], "int64", held.shape)
    above = b.op("Max", [new, b.integers(1)], "int64", held.shape)
    return b.op("Min", [above, b.dim(SEQUENCE)], "int64", held.shape)


def _tokens_held(b: Builder) -> Tensor:
    mask = b.inputs[names.ATTENTION_MASK]
    result: Tensor = b.memo("tokens held", lambda: b.op("ReduceSum", [mask, b.integers(1)], "int64", (BATCH,), keepdims=0))
    return result
