"""Attention taken apart gives the numbers and the caches of the intrinsic, in every form it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops.attention import BIAS, INPUTS, KEY, KEY_MASK, MASK, POSITIONS, QUERY, SINKS, SLOPES, VALUE
from kexport.graphs.passes.decompose import Decompose

from tests.graphs.helpers import applied, compare, ops_of

TOLERANCE = 2e-6


@dataclass
class Form:
    """One form of attention: sizes, features, and where keys and values come from."""

    batch: int = 2
    sequence: int = 3
    total: int = 7
    kv_heads: int = 2
    group: int = 1
    head_dim: int = 4
    value_dim: int = 4
    source: str = "slot"  # slot: written and read; cross: read only; given: keys and values are inputs
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    slopes: bool = False
    bias: bool = False
    mask: bool = False
    key_mask: bool = False
    seed: int = 0

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group

    @property
    def keys(self) -> str:
        return {"slot": "total", "cross": "encoder_sequence", "given": "keys"}[self.source]


FORMS = st.builds(
    Form,
    batch=st.integers(1, 3),
    sequence=st.integers(1, 4),
    total=st.integers(4, 9),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 5),
    value_dim=st.integers(1, 5),
    source=st.sampled_from(["slot", "cross", "given"]),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 9)),
    softcap=st.one_of(st.none(), st.just(2.0)),
    sinks=st.booleans(),
    slopes=st.booleans(),
    bias=st.booleans(),
    mask=st.booleans(),
    key_mask=st.booleans(),
    seed=st.integers(0, 10_000),
)


def build(form: Form) -> Graph:
    """A graph of that one attention."""
    graph = Graph("test")
    inputs = [""] * len(INPUTS)

    def take(index: int, dtype: str, *shape: Any) -> None:
        inputs[index] = graph.add_input(INPUTS[index].rstrip("?"), dtype, shape)

    take(QUERY, "float32", "batch", "sequence", form.heads, form.head_dim)
    if form.source != "cross":
        length = "sequence" if form.source == "slot" else "keys"
        take(KEY, "float32", "batch", length, form.kv_heads, form.head_dim)
        take(VALUE, "float32", "batch", length, form.kv_heads, form.value_dim)
    if form.source != "given":
        kind: Any = "self" if form.source == "slot" else "cross"
        graph.slots["s.0"] = Slot(kind, form.kv_heads, form.head_dim, form.value_dim)
    take(POSITIONS, "int32", "batch", "sequence")
    if form.bias:
        take(BIAS, "float32", 1, form.heads, "sequence", form.keys)
    if form.mask:
        take(MASK, "bool", "batch", 1, "sequence", form.keys)
    if form.key_mask:
        take(KEY_MASK, "bool", "batch", form.keys)
    if form.sinks:
        take(SINKS, "float32", form.heads)
    if form.slopes:
        take(SLOPES, "float32", form.heads)
    graph.outputs["y"] = graph.add_node(
        "attention",
        inputs,
        layer="layer_0/attention",
        scale=0.3,
        slot="s.0" if form.source != "given" else None,
        write=form.source == "slot",
        causal=form.causal,
        window=form.window,
        softcap=form.softcap,
    )
    return graph


def evaluate(graph: Graph, form: Form) -> tuple[Any, Any]:
    """Output and caches for numbers fixed by the form's seed; rows stand at positions of their own."""
    generator = np.random.default_rng(form.seed)
    sizes = {"batch": form.batch, "sequence": form.sequence, form.keys: form.total}
    feeds: dict[str, Any] = {}
    for name, type_ in graph.inputs.items():
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in type_.shape)
        feeds[name] = generator.standard_normal(shape).astype(np.float32) * 2 if type_.dtype == "float32" else generator.random(shape) < 0.6
    starts = generator.integers(0, form.total - form.sequence + 1, (form.batch, 1))
    feeds["positions"] = (starts + np.arange(form.sequence)).astype(np.int32)
    caches = new_caches(graph, form.batch, form.total) if graph.slots else None
    for parts in (caches or {}).values():
        for part in parts:
            part[...] = generator.standard_normal(part.shape)
    return run(graph, feeds, None, caches, **sizes)["y"], caches or {}


def check(form: Form) -> Graph:
    graph = build(form)
    plain, _ = applied(graph, Decompose())
    (expected, expected_caches), (got, got_caches) = evaluate(graph, form), evaluate(plain, form)
    compare(got, expected, TOLERANCE, "output")
    for slot, parts in expected_caches.items():
        for part in range(2):
            compare(got_caches[slot][part], parts[part], 0, slot)
    return plain


@settings(max_examples=200, deadline=None)
@given(form=FORMS)
def test_any_form_gives_the_same_numbers_and_caches(form: Form) -> None:
    """Shapes, head grouping, slots, windows, softcap, sinks, slopes, bias, masks and ragged positions, in any combination."""
    check(form)


@pytest.mark.parametrize("source", ["slot", "cross", "given"])
def test_a_row_that_sees_no_key_gives_zeros(source: str) -> None:
    """A padding row whose keys are all hidden stays finite."""
    form = Form(source=source, key_mask=True, seed=1)
    graph = build(form)
    plain, _ = applied(graph, Decompose())
    for one in (graph, plain):
        generator = np.random.default_rng(0)
        sizes = {"batch": 2, "sequence": 3, form.keys: 7}
        feeds = {
            name: generator.standard_normal(tuple(sizes.get(d, d) for d in type_.shape)).astype(type_.dtype)
            for name, type_ in one.inputs.items()
        }
        feeds["positions"] = np.tile(np.arange(3, dtype=np.int32), (2, 1))
        feeds["key_mask"] = np.array([[False] * 7, [True] * 7])
        y = run(one, feeds, None, new_caches(one, 2, 7) if one.slots else None, **sizes)["y"]
        assert (y[0] == 0).all() and np.isfinite(y).all()


def test_a_causal_cache_needs_no_more_than_a_softmax() -> None:
    """The common form stays short: two writes, two products, one softmax."""
    plain = check(Form(causal=True, window=2, group=2))
    ops = ops_of(plain)
    assert [ops.count(op) for op in ("cache_write", "cache_read", "matmul", "softmax", "exp")] == [2, 0, 2, 1, 0]


def test_keys_and_values_are_not_repeated_for_grouped_heads() -> None:
    """The products run over key-value heads; nothing of the cache's size is broadcast to all heads."""
    plain = check(Form(kv_heads=2, group=3, causal=True))
    assert "broadcast_to" not in ops_of(plain)
    (first, second) = plain.of_op("matmul")
    assert plain.type_of(first.input(1)).shape[1] == plain.type_of(second.input(1)).shape[1] == 2


def test_a_cross_cache_is_read_and_not_written() -> None:
    """Reading a slot leaves cache_read only."""
    ops = ops_of(check(Form(source="cross", key_mask=True)))
    assert ops.count("cache_read") == 2 and "cache_write" not in ops


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_cache_is_widened_when_read(dtype: str) -> None:
    """Keys stored in half precision are compared in the query's dtype, as the intrinsic does."""
    form = Form(causal=True)
    graph = build(form)
    graph.slots["s.0"] = Slot("self", 2, 4, 4, dtype)
    plain, _ = applied(graph, Decompose())
    expected, got = evaluate(graph, form)[0], evaluate(plain, form)[0]
    compare(got, expected, TOLERANCE, "output")
