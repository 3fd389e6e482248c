"""Attention that onnxruntime has no fused operator for: the table that the lowering decides by, and that docs/support.md shows."""

from __future__ import annotations

from kexport.targets.geometry import TWO_CACHES
from kexport.targets.onnx.attention import SINKS, Request
from kexport.targets.onnx.attention_gqa import HEAD_MULTIPLE

SHARED_CACHE = "it reads the cache of another layer: GroupQueryAttention appends to the cache that it reads, MultiHeadAttention takes none of that kind"
GROUPED = "query heads share key-value heads over a cross cache or without a cache: MultiHeadAttention has no grouped heads"
CAPPED = "a softcap over a cross cache or without a cache: MultiHeadAttention has none"
SUNK = "sinks over a cross cache or without a cache: MultiHeadAttention has none"
NOT_CAUSAL = "later tokens of a cache of its own are visible: GroupQueryAttention does that from onnxruntime 1.30 on only"
UNEQUAL = f"keys and values of different sizes, or of no multiple of {HEAD_MULTIPLE} numbers a head: GroupQueryAttention takes neither"
TABLE = (SHARED_CACHE, GROUPED, CAPPED, SUNK, NOT_CAUSAL, UNEQUAL, TWO_CACHES)


def unfusable(r: Request) -> str:
    """The line of the table that holds of the node, "" where none does."""
    if r.slot is not None and r.slot.kind == "self":
        return _of_own_cache(r)
    if r.heads != r.kv_heads:
        return GROUPED
    if r.softcap:
        return CAPPED
    return SUNK if r.input(SINKS) else ""


def _of_own_cache(r: Request) -> str:
    if not r.write:
        return SHARED_CACHE
    if not r.causal:
        return NOT_CAUSAL
    return UNEQUAL if r.head_dim != r.value_dim or r.head_dim % HEAD_MULTIPLE else ""
