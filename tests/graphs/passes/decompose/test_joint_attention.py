"""Attention over two sets of keys, taken apart, gives the numbers and the caches of the intrinsic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops.attention import BIAS, KEY, MASK, POSITIONS, QUERY, VALUE
from kexport.graphs.ops.joint_attention import CROSS_BIAS, CROSS_KEY, CROSS_MASK, CROSS_VALUE, INPUTS
from kexport.graphs.passes.decompose import Decompose
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import applied, compare, ops_of

SIZES = {"batch": 2, "sequence": 3, "total": 8, "encoder_sequence": 5}
KV_HEADS, GROUP, DIM = 2, 3, 4
TOLERANCE = 2e-6


def build(*, cached: bool, masked: bool = True, cross_key: bool | None = None, **attrs: Any) -> Graph:
    """One joint attention over two slots, or over given keys and values."""
    graph = Graph("test")
    inputs = [""] * len(INPUTS)

    def take(index: int, dtype: str, *shape: Any) -> None:
        inputs[index] = graph.add_input(INPUTS[index].rstrip("?"), dtype, shape)

    take(QUERY, "float32", "batch", "sequence", KV_HEADS * GROUP, DIM)
    for index in (KEY, VALUE):
        take(index, "float32", "batch", "sequence", KV_HEADS, DIM)
    keys = "total" if cached else "sequence"
    if cached:
        take(POSITIONS, "int32", "batch", "sequence")
        graph.slots.update({"self.0": Slot("self", KV_HEADS, DIM, DIM), "cross.0": Slot("cross", KV_HEADS, DIM, DIM)})
    if not cached if cross_key is None else cross_key:
        for index in (CROSS_KEY, CROSS_VALUE):
            take(index, "float32", "batch", "encoder_sequence", KV_HEADS, DIM)
    if masked:
        take(BIAS, "float32", 1, KV_HEADS * GROUP, "sequence", keys)
        take(MASK, "bool", "batch", 1, "sequence", keys)
        take(CROSS_BIAS, "float32", 1, 1, 1, "encoder_sequence")
        take(CROSS_MASK, "bool", "batch", 1, 1, "encoder_sequence")
    slots = {"slot": "self.0", "cross_slot": "cross.0", "write": True, "causal": True} if cached else {}
    graph.outputs["y"] = graph.add_node("joint_attention", inputs, layer="layer_0", scale=0.3, **{**slots, **attrs})
    return graph


def evaluate(graph: Graph) -> tuple[Any, Any]:
    """Output and caches for fixed numbers; in the first row every key is hidden where there are masks."""
    generator = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for name, type_ in graph.inputs.items():
        shape = tuple(SIZES[dim] if isinstance(dim, str) else dim for dim in type_.shape)
        feeds[name] = generator.standard_normal(shape).astype(np.float32) * 2 if type_.dtype == "float32" else generator.random(shape) < 0.6
        if type_.dtype == "bool":
            feeds[name][0] = False
    if "positions" in feeds:
        feeds["positions"] = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    caches = new_caches(graph, SIZES["batch"], SIZES["total"])
    for name, parts in caches.items():
        length = SIZES["total" if name == "self.0" else "encoder_sequence"]
        parts[:] = [generator.standard_normal((part.shape[0], length, *part.shape[2:])).astype(np.float32) for part in parts]
    return run(graph, feeds, None, caches, **SIZES)["y"], caches


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_every_form_gives_the_same_numbers_and_caches(cached: bool, masked: bool, softcap: float | None) -> None:
    """Slots or given keys, masks and biases on both sides, softcap, a window, grouped heads; a row that sees nothing gives zeros."""
    graph = build(cached=cached, masked=masked, softcap=softcap, window=2 if cached else None)
    plain, _ = applied(graph, Decompose())
    (expected, expected_caches), (got, got_caches) = evaluate(graph), evaluate(plain)
    compare(got, expected, TOLERANCE, "output")
    assert masked == bool((got[0] == 0).all()) and np.abs(got[1]).max() > 0.1
    for slot, parts in expected_caches.items():
        for part in range(2):
            compare(got_caches[slot][part], parts[part], 0, slot)
    counts = [ops_of(plain).count(op) for op in ("cache_write", "cache_read", "matmul", "concat")]
    assert counts == [2, 2, 4, 0] if cached else counts == [0, 0, 4, 0]


def test_the_encoders_keys_come_from_one_place() -> None:
    """A cross slot and given keys at once, neither of them, or a slot that is not there, are no joint attention."""
    for wrong in ({"cached": True, "cross_key": True}, {"cached": False, "cross_key": False}, {"cached": True, "cross_slot": "cross.1"}):
        with pytest.raises(InternalError):
            build(**wrong)
