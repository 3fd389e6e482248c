"""com.microsoft MultiHeadAttention: cross-attention over given caches, and attention without a cache (encoders).

Keys and values are [batch, heads, keys, dim] from a cross slot, [batch, sequence, heads * dim] otherwise.
"""

from __future__ import annotations

from kexport.targets.onnx.attention import (
    BIAS,
    HIDDEN,
    KEY,
    KEY_MASK,
    MASK,
    QUERY,
    SLOPES,
    VALUE,
    Request,
    additive_bias,
)
from kexport.targets.onnx.builder import CONTRIB, Builder, Tensor


def refuse(b: Builder, r: Request) -> str:
    """Why this operator cannot take a node that it has a form for (unfusable.py); empty if it can."""
    return "it reads or writes a self cache" if r.slot is not None and (r.write or r.slot.kind == "self") else ""


def render(b: Builder, r: Request) -> str:
    """Write the operator. Returns a remark on the form it took."""
    query = b.reshape(b.value(r.input(QUERY)), r.flat_query)
    key, value = _given(b, r) if r.slot is None else b.slots[r.slot_name].past
    only_keys_hidden = r.input(KEY_MASK) and not (r.causal or r.window or any(r.input(index) for index in (MASK, BIAS, SLOPES)))
    key_mask = b.cast(b.value(r.input(KEY_MASK)), "int32") if only_keys_hidden else None
    bias = None if only_keys_hidden else additive_bias(b, r, position_masks=True)
    shape = (*r.flat_query[:2], r.heads * r.value_dim)
    inputs = [query, key, value, None, key_mask, bias]
    result = b.op(
        "MultiHeadAttention", inputs, query.dtype, shape, domain=CONTRIB, num_heads=r.heads, scale=r.scale, mask_filter_value=float(HIDDEN)
    )
    b.set(r.node.output, b.reshape(result, (*shape[:2], r.heads, r.value_dim)))
    return "over the cross cache" if r.slot else "without a cache"


def _given(b: Builder, r: Request) -> tuple[Tensor, Tensor]:
    key, value = b.value(r.input(KEY)), b.value(r.input(VALUE))
    sizes = (r.head_dim, r.value_dim)
    key, value = (b.reshape(tensor, (*tensor.shape[:2], r.heads * size)) for tensor, size in zip((key, value), sizes, strict=True))
    return key, value
