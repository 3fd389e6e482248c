"""Each intrinsic's decomposition gives the numbers of the intrinsic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kexport.graphs.ir import Graph
from kexport.graphs.ops import OPS
from kexport.graphs.ops.experts import ACTIVATIONS
from kexport.graphs.passes.decompose import DECOMPOSITIONS, Decompose, decompose
from kexport.graphs.passes.decompose.registry import decomposes
from kexport.graphs.verify import verify
from kexport.runtime.contract.errors import InternalError

from tests.graphs.helpers import applied, ops_of, parameter, same_outputs

CACHE_OPS = {"cache_write", "cache_read"}
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
DTYPES = st.sampled_from(sorted(TOLERANCE))
SIZES = st.integers(1, 5)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def check(graph: Graph, feeds: dict[str, Any], tolerance: float, **dims: int) -> None:
    """Decomposed: only plain ops, well formed, a second run changes nothing, the same numbers."""
    plain, result = applied(graph, Decompose())
    assert result.changes and not set(ops_of(plain)) & set(DECOMPOSITIONS)
    same_outputs(graph, plain, feeds, tolerance=tolerance, **dims)


def one_op(op: str, x_dtype: str, x_shape: tuple[Any, ...], parameters: dict[str, tuple[int, ...]] | None = None, **attrs: Any) -> Graph:
    """x -> op -> y, with parameters behind x."""
    graph = Graph("test")
    graph.add_input("x", x_dtype, x_shape)
    inputs = ["x"] + [parameter(graph, name, *shape) for name, shape in (parameters or {}).items()]
    graph.outputs["y"] = graph.add_node(op, inputs, **attrs)
    return graph


def feed(graph: Graph, batch: int, sequence: int) -> Any:
    type_ = graph.inputs["x"]
    sizes = {"batch": batch, "sequence": sequence}
    array = numbers(*(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in type_.shape))
    from kexport.runtime.contract.dtypes import numpy_dtype

    return array.astype(numpy_dtype(type_.dtype))


def test_every_intrinsic_but_the_cache_has_a_rule() -> None:
    """A target needs a native form of nothing but the two cache ops."""
    assert {name for name, spec in OPS.items() if spec.intrinsic} - set(DECOMPOSITIONS) == CACHE_OPS


@settings(max_examples=30, deadline=None)
@given(dtype=DTYPES, batch=SIZES, sequence=SIZES, width=st.integers(1, 9), weight=st.booleans(), offset=st.sampled_from([0.0, 1.0]))
def test_rms_norm(dtype: str, batch: int, sequence: int, width: int, weight: bool, offset: float) -> None:
    """With and without weight and offset, in every float."""
    graph = one_op("rms_norm", dtype, ("batch", "sequence", width), {"w": (width,)} if weight else {}, epsilon=1e-6, offset=offset)
    check(graph, {"x": feed(graph, batch, sequence)}, TOLERANCE[dtype])


@settings(max_examples=30, deadline=None)
@given(dtype=DTYPES, batch=SIZES, sequence=SIZES, width=st.integers(1, 9), given_weights=st.integers(0, 2))
def test_layer_norm(dtype: str, batch: int, sequence: int, width: int, given_weights: int) -> None:
    """With weight and bias, weight only, and neither."""
    parameters = dict([("w", (width,)), ("b", (width,))][:given_weights])
    graph = one_op("layer_norm", dtype, ("batch", "sequence", width), parameters, epsilon=1e-5)
    check(graph, {"x": feed(graph, batch, sequence)}, TOLERANCE[dtype])


def test_layer_norm_with_a_bias_only() -> None:
    """An absent weight before a bias that is given."""
    graph = Graph("test")
    graph.add_input("x", "float32", ("batch", 6))
    graph.outputs["y"] = graph.add_node("layer_norm", ["x", "", parameter(graph, "b", 6)], epsilon=1e-5)
    check(graph, {"x": feed(graph, 3, 0)}, TOLERANCE["float32"])


@settings(max_examples=20, deadline=None)
@given(dtype=DTYPES, batch=SIZES, sequence=SIZES, op=st.sampled_from(["gelu", "gelu_tanh", "silu"]))
def test_activations(dtype: str, batch: int, sequence: int, op: str) -> None:
    """gelu by erf and by tanh, and silu."""
    attrs = {"approximate": op == "gelu_tanh"} if op != "silu" else {}
    graph = one_op(op.removesuffix("_tanh"), dtype, ("batch", "sequence", 7), **attrs)
    check(graph, {"x": feed(graph, batch, sequence) * feed(graph, batch, sequence).dtype.type(3)}, TOLERANCE[dtype])


@settings(max_examples=20, deadline=None)
@given(batch=SIZES, sequence=SIZES, width=SIZES, out=SIZES, bias=st.booleans(), flat=st.booleans())
def test_linear(batch: int, sequence: int, width: int, out: int, bias: bool, flat: bool) -> None:
    """With and without bias, over matrices and stacks of them: the same numbers to the bit."""
    shape = ("batch", width) if flat else ("batch", "sequence", width)
    graph = one_op("linear", "float32", shape, {"w": (width, out), **({"b": (out,)} if bias else {})})
    check(graph, {"x": feed(graph, batch, sequence)}, 0)


@settings(max_examples=40, deadline=None)
@given(
    batch=SIZES,
    sequence=SIZES,
    taken=st.integers(1, 4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    limit=st.sampled_from([None, 0.5]),
    offset=st.sampled_from([0.0, 1.0]),
    biases=st.sampled_from([(), ("gate_bias", "up_bias", "down_bias"), ("down_bias",)]),
)
def test_experts(batch: int, sequence: int, taken: int, activation: str, limit: float | None, offset: float, biases: tuple[str, ...]) -> None:
    """Every gate, with and without limits and biases; experts that a token takes twice, and that no token takes."""
    graph, count = Graph("test"), 4
    inputs = [graph.add_input("x", "float32", ("batch", "sequence", 6)), graph.add_input("ids", "int32", ("batch", "sequence", taken))]
    inputs.append(graph.add_input("weights", "float32", ("batch", "sequence", taken)))
    sizes = {"gate": (6, 5), "up": (6, 5), "down": (5, 6), "gate_bias": (5,), "up_bias": (5,), "down_bias": (6,)}
    matrices = ("gate", "up", "down")
    inputs += [parameter(graph, name, count, *size) if name in (*matrices, *biases) else "" for name, size in sizes.items()]
    alpha = 1.7 if activation == "silu" else 1.0
    while not inputs[-1]:
        inputs.pop()
    graph.outputs["y"] = graph.add_node("experts", inputs, activation=activation, alpha=alpha, limit=limit, offset=offset)
    generator = np.random.default_rng(batch + sequence)
    ids = generator.integers(0, count, (batch, sequence, taken)).astype(np.int32)
    shares = generator.standard_normal(ids.shape).astype(np.float32)
    check(graph, {"x": feed(graph, batch, sequence), "ids": ids, "weights": shares}, 1e-5)


@settings(max_examples=20, deadline=None)
@given(batch=SIZES, sequence=SIZES, ids_dtype=st.sampled_from(["int32", "int64"]))
def test_embedding(batch: int, sequence: int, ids_dtype: str) -> None:
    """Rows of the table, to the bit."""
    graph = Graph("test")
    graph.add_input("x", ids_dtype, ("batch", "sequence"))
    graph.outputs["y"] = graph.add_node("embedding", [parameter(graph, "table", 11, 4), "x"])
    check(graph, {"x": np.random.default_rng(1).integers(0, 11, (batch, sequence)).astype(ids_dtype)}, 0)


@settings(max_examples=40, deadline=None)
@given(
    dtype=DTYPES,
    batch=SIZES,
    sequence=SIZES,
    half=st.integers(1, 4),
    rest=st.integers(0, 3),
    factor=st.sampled_from([1.0, 0.5, 1.3]),
    one_row=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rope(dtype: str, batch: int, sequence: int, half: int, rest: int, factor: float, one_row: bool, seed: int) -> None:
    """Full and partial rotation, a factor, each row at its own positions or all at the same."""
    graph = Graph("test")
    graph.add_input("x", dtype, ("batch", "sequence", 3, 2 * half + rest))
    graph.add_input("positions", "int32", (1 if one_row else "batch", "sequence"))
    frequencies = graph.add_constant((100.0 ** -np.linspace(0, 1, half)).astype(np.float32))
    graph.outputs["y"] = graph.add_node("rope", ["x", "positions", frequencies], factor=factor)
    positions = np.random.default_rng(seed).integers(0, 1000, (1 if one_row else batch, sequence)).astype(np.int32)
    check(graph, {"x": feed(graph, batch, sequence), "positions": positions}, TOLERANCE[dtype])


@settings(max_examples=20, deadline=None)
@given(batch=SIZES, sequence=SIZES, fixed=st.booleans(), lengths_dtype=st.sampled_from(["int32", "int64"]), seed=st.integers(0, 99))
def test_last_token(batch: int, sequence: int, fixed: bool, lengths_dtype: str, seed: int) -> None:
    """Each row's own last position, for named and fixed lengths."""
    graph = Graph("test")
    graph.add_input("x", "float32", ("batch", sequence if fixed else "sequence", 3))
    graph.add_input("lengths", lengths_dtype, ("batch",))
    graph.outputs["y"] = graph.add_node("last_token", ["x", "lengths"])
    lengths = np.random.default_rng(seed).integers(1, sequence + 1, batch).astype(lengths_dtype)
    check(graph, {"x": numbers(batch, sequence, 3).astype(np.float32), "lengths": lengths}, 0)


def test_kept_ops_stay() -> None:
    """What a target takes natively is not touched."""
    graph = one_op("linear", "float32", ("batch", 4), {"w": (4, 4)})
    graph.outputs["y"] = graph.add_node("silu", [graph.outputs["y"]])
    result = decompose(graph, keep={"linear"})
    verify(graph)
    assert ops_of(graph) == ["linear", "sigmoid", "mul"] and result.changes == 1
    assert decompose(graph, keep=frozenset({"linear"})).changes == 0


def test_the_layer_is_kept() -> None:
    """Plain ops carry the original's layer, so that messages can still name it."""
    graph = Graph("test")
    graph.add_input("x", "float32", ("batch", 4))
    graph.outputs["y"] = graph.add_node("silu", ["x"], layer="block_0/activation")
    decompose(graph, keep=frozenset())
    assert {node.layer for node in graph.nodes} == {"block_0/activation"}


def test_a_rule_needs_an_intrinsic_without_one() -> None:
    """A second rule, and a rule for a plain op, are refused."""
    for op in ("linear", "add", "no_such_op"):
        with pytest.raises(InternalError) as caught:
            decomposes(op)
        assert caught.value.code == "KX904" and op in caught.value.message
