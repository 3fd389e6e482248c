"""Every op of the graph's table runs in onnxruntime as it does in the interpreter, by the cases that stand beside its lowering."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops import OPS, infer_types
from kexport.graphs.passes.decompose import DECOMPOSITIONS
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter
from kexport.targets.base import EmitOptions
from kexport.targets.onnx import ops as _ops  # noqa: F401
from kexport.targets.onnx.emit import emit
from kexport.targets.onnx.lowering import LOWERINGS, Argument, Case

from tests.targets.onnx.toys import RandomSource, open_session, source_of

SIZES = {"batch": 2, "sequence": 3}
NUMBER_OF_IDS = 5
CASES = [(op, case) for op, lowering in sorted(LOWERINGS.items()) for case in lowering.cases]
WITHOUT_INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("dim_size", {"dim": "sequence"}),
    ("dim_size", {"dim": "2*batch*sequence"}),
    ("dim_size", {"dim": "2*batch*sequence/3"}),
    ("range", {"size": "sequence/3"}),
    ("range", {"size": "sequence"}),
    ("range", {"size": 4}),
    ("range", {"size": "sequence", "dtype": "float32"}),
]
TAKEN_APART = {"delta_rule", "delta_rule_rows", "joint_attention"}  # tests/runtime/engines/test_states.py, tests/converter/test_forward.py, tests/zoo/seq2seq.py
TESTED_ELSEWHERE = {"attention", "cache_read", "cache_write"}  # they need slots: test_decoder.py, test_attention.py


def test_every_op_has_a_lowering_with_a_case() -> None:
    """No op of the table is left to chance: what has no lowering is taken apart."""
    assert set(LOWERINGS) <= set(OPS)
    assert set(OPS) - set(LOWERINGS) <= TAKEN_APART <= set(DECOMPOSITIONS)
    assert {op for op, lowering in LOWERINGS.items() if not lowering.cases} <= TESTED_ELSEWHERE | {"dim_size", "range"}


def numbers(argument: Argument, name: str) -> Any:
    """The test values of one argument."""
    if argument.array is not None:
        return argument.array
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = tuple(SIZES.get(size, size) if isinstance(size, str) else size for size in argument.shape)
    if argument.values == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if argument.limit:
        low = 1 if argument.values == "positive" else 0
        return rng.integers(low, argument.limit + low, shape).astype(argument.dtype)
    values = rng.standard_normal(shape).astype(np.float32)
    return (np.abs(values) + np.float32(0.25) if argument.values == "positive" else values).astype(argument.dtype)


def graph_of(op: str, case: Case) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node, and what to feed it. One more input carries the dims that no argument does."""
    graph, feeds, inputs = Graph(op), {}, []
    for index, argument in enumerate(case.arguments):
        name = f"x{index}"
        if argument is None:
            inputs.append("")
        elif argument.role == "weight":
            inputs.append(graph.add_weight(Parameter(tuple(int(size) for size in argument.shape), argument.dtype, name)))
        elif argument.role == "constant":
            inputs.append(graph.add_constant(numbers(argument, name)))
        else:
            inputs.append(graph.add_input(name, argument.dtype, argument.shape))
            feeds[name] = numbers(argument, name)
    node = Node(op, tuple(inputs), ("y",), dict(case.attrs))
    types = infer_types(graph, node) if op != "split" else OPS["split"].infer(graph, node, [graph.type_of(name) for name in inputs])
    node.outputs = tuple(f"y{index}" for index in range(len(types)))
    graph.types.update(zip(node.outputs, types, strict=True))
    graph.nodes.append(node)
    graph.outputs = {f"out{index}": name for index, name in enumerate(node.outputs)}
    verify(graph)
    return graph, feeds


def operators_in(graph: Any) -> int:
    """How many operators a graph has, those in branches included."""
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return len(graph.node) + sum(operators_in(branch) for branch in inner)


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op}: {case.title}" for op, case in CASES])
def test_lowering(op: str, case: Case, tmp_path: Path) -> None:
    """The case's operators are the expected ones, and their result is the interpreter's."""
    graph, feeds = graph_of(op, case)
    source = source_of(graph)
    emitted = emit({"extend": graph}, source, tmp_path, EmitOptions(8))
    import onnx

    model = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    if case.expect is not None:
        assert tuple(node.op_type for node in model.graph.node) == case.expect
    assert sum(emitted.ops.values()) == operators_in(model.graph)
    session = open_session(tmp_path / "model.onnx")
    results = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
    expected = run(graph, feeds, source)
    for got, (name, want) in zip(results, expected.items(), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape, name
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize(("op", "attrs"), WITHOUT_INPUTS)
def test_ops_without_inputs(op: str, attrs: dict[str, Any], tmp_path: Path) -> None:
    """Sizes are read off the file's inputs."""
    graph = Graph(op)
    graph.add_input("x", "int32", ("batch", "sequence"))
    dtype = attrs.get("dtype", "int32")
    y = graph.add_node(op, [], **attrs)
    graph.outputs["y"] = graph.add_node("add", [y, graph.add_constant(np.asarray(0, dtype))])
    emit({"extend": graph}, RandomSource({}), tmp_path, EmitOptions(8))
    feeds = {"x": np.zeros((2, 3), np.int32)}
    session = open_session(tmp_path / "model.onnx")
    (got,) = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
    (want,) = run(graph, feeds).values()
    assert got.dtype == want.dtype and got.shape == want.shape and (got == want).all()
