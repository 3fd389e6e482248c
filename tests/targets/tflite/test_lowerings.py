"""Every op of the graph's table runs in LiteRT as it does in the interpreter, by the cases that stand beside its lowering."""

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
from kexport.runtime.native_output import captured_stderr
from kexport.targets.base import EmitOptions
from kexport.targets.tflite import ops as _ops  # noqa: F401
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import LOWERINGS, Argument, Case
from kexport.targets.tflite.model_file import ModelFile

from tests.targets.onnx.toys import RandomSource, source_of

SIZES = {"batch": 1, "sequence": 3}
CASES = [(op, case) for op, lowering in sorted(LOWERINGS.items()) for case in lowering.cases]
WITHOUT_INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("dim_size", {"dim": "2*batch*sequence"}),
    ("dim_size", {"dim": "2*batch*sequence/3"}),
    ("range", {"size": "sequence/3"}),
    ("range", {"size": "sequence"}),
    ("range", {"size": 4, "dtype": "float32"}),
]
TAKEN_APART = {"delta_rule", "delta_rule_rows", "joint_attention"}  # tests/runtime/engines/test_states.py, tests/converter/test_forward.py, tests/zoo/seq2seq.py
TESTED_ELSEWHERE = {"attention", "cache_read", "cache_write"}  # they need slots: test_decoder.py


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
    """A graph of one node, and what to feed it."""
    graph, feeds, inputs = Graph(op), {}, []
    for index, argument in enumerate(case.arguments):
        name = f"x{index}"
        if argument.role == "weight":
            inputs.append(graph.add_weight(Parameter(tuple(int(size) for size in argument.shape), argument.dtype, name)))
        elif argument.role == "constant":
            inputs.append(graph.add_constant(numbers(argument, name)))
        else:
            inputs.append(graph.add_input(name, argument.dtype, argument.shape))
            feeds[name] = numbers(argument, name)
    node = Node(op, tuple(inputs), ("y",), dict(case.attrs))
    types = infer_types(graph, node)
    node.outputs = tuple(f"y{index}" for index in range(len(types)))
    graph.types.update(zip(node.outputs, types, strict=True))
    graph.nodes.append(node)
    graph.outputs = {f"out{index}": name for index, name in enumerate(node.outputs)}
    verify(graph)
    return graph, feeds


def written(graph: Graph, path: Path, source: Any) -> list[str]:
    """Write a file with one signature, `run`; its operators in order."""
    file = ModelFile()
    builder = Builder(graph, "run", SIZES, cache_length=8, options=EmitOptions(8))
    for name in graph.inputs:
        builder.set(name, builder.add_input(name, builder.type_of(name).dtype, builder.shape_of(name)))
    for node in graph.nodes:
        builder.scope(node)
        LOWERINGS[node.op].lower(node, builder)
    subgraph = builder.finish(file, {name: builder.value(value) for name, value in graph.outputs.items()})
    file.subgraphs.append(subgraph)
    file.write(path, source)
    return [operator.form for operator in subgraph.operators]


def by_litert(path: Path, feeds: dict[str, Any], *, xnnpack: bool) -> dict[str, Any]:
    """The outputs by the vendor's interpreter."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with captured_stderr():
        runner = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=kind).get_signature_runner("run")
        return dict(runner(**{name: feeds[name] for name in runner.get_input_details()}))


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "plain kernels"])
@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op}: {case.title}" for op, case in CASES])
def test_lowering(op: str, case: Case, xnnpack: bool, tmp_path: Path) -> None:
    """The case's operators are the expected ones, and their result is the interpreter's."""
    graph, feeds = graph_of(op, case)
    source = source_of(graph)
    forms = written(graph, tmp_path / "model.tflite", source)
    if case.expect is not None:
        assert tuple(forms) == case.expect
    expected = run(graph, feeds, source, **SIZES)
    if not forms:
        return  # nothing to run: the lowering saw that the value is its input
    for name, got in by_litert(tmp_path / "model.tflite", feeds, xnnpack=xnnpack).items():
        want = expected[name]
        assert got.dtype == want.dtype and got.shape == want.shape, name
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize(("op", "attrs"), WITHOUT_INPUTS)
def test_ops_without_inputs(op: str, attrs: dict[str, Any], tmp_path: Path) -> None:
    """Sizes are constants of the file."""
    graph = Graph(op)
    dtype = attrs.get("dtype", "int32")
    graph.add_input("x", dtype, ())
    graph.outputs["y"] = graph.add_node("add", [graph.add_node(op, [], **attrs), "x"])
    feeds = {"x": np.asarray(3, dtype)}
    written(graph, tmp_path / "model.tflite", RandomSource({}))
    (want,) = run(graph, feeds, **SIZES).values()
    (got,) = by_litert(tmp_path / "model.tflite", feeds, xnnpack=True).values()
    assert got.dtype == want.dtype and (got == want).all()
