"""Attention that OpenVINO's CPU plugin does not fuse with its cache: the table that the lowering decides by, and that docs/support.md shows."""

from __future__ import annotations

from kexport.targets.geometry import TWO_CACHES
from kexport.targets.openvino.attention import KEY_MASK, MASK, SINKS, Request

CAPPED = "a softcap: ScaledDotProductAttention has none"
SUNK = "sinks: ScaledDotProductAttention has none"
CROSS = "over a cross cache: the plugin takes the operator apart there"
SHARED_CACHE = "it reads the cache of another layer: the plugin fuses the operator with a state that it appends to"
OWN_MASK = "the graph computes a mask of its own: the plugin fuses the operator with a state where keys are hidden by their place only"
NOT_CAUSAL = "later tokens of a cache of its own are visible: keys are hidden by their place only"
TABLE = (CAPPED, SUNK, CROSS, SHARED_CACHE, OWN_MASK, NOT_CAUSAL, TWO_CACHES)


def refuse_operator(r: Request) -> str:
    """The line of the table for which ScaledDotProductAttention cannot take the node at all; "" if it can."""
    if r.softcap:
        return CAPPED
    return SUNK if r.input(SINKS) else ""


def unfusable(r: Request) -> str:
    """The line of the table that holds of the node, "" where none does."""
    refused = refuse_operator(r)
    if refused or r.slot is None:
        return refused
    if r.slot.kind == "cross":
        return CROSS
    if not r.write:
        return SHARED_CACHE
    if any(r.input(index) for index in (MASK, KEY_MASK)):
        return OWN_MASK
    return "" if r.causal else NOT_CAUSAL
