"""Every op of the graph's table runs in OpenVINO as it does in the interpreter, by the cases that the ONNX target keeps beside its lowerings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.ops import OPS
from kexport.targets.base import EmitOptions
from kexport.targets.onnx import ops as _ops  # noqa: F401
from kexport.targets.onnx.lowering import LOWERINGS as ONNX_LOWERINGS
from kexport.targets.openvino.emit import emit
from kexport.targets.openvino.lowering import LOWERINGS

from tests.targets.onnx.test_lowerings import TAKEN_APART, WITHOUT_INPUTS, graph_of
from tests.targets.onnx.toys import RandomSource, source_of
from tests.targets.openvino.runs import EXACT

LEFT_PADDED = {"last_token"}  # here rows end at the last column: test_decoder.py
CASES = [(op, case) for op, lowering in sorted(ONNX_LOWERINGS.items()) for case in lowering.cases if op not in LEFT_PADDED]
TOLERANCE = 5e-6


def test_every_op_has_a_lowering() -> None:
    """No op of the table is left to chance: what has no lowering is taken apart."""
    assert set(LOWERINGS) <= set(OPS)
    assert set(OPS) - set(LOWERINGS) <= TAKEN_APART


def compiled(directory: Path) -> Any:
    """The only file in the directory, in full precision."""
    return ov.Core().compile_model(directory / "openvino_model.xml", "CPU", EXACT)


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op}: {case.title}" for op, case in CASES])
def test_lowering(op: str, case: Any, tmp_path: Path) -> None:
    """The operators' result is the interpreter's."""
    graph, feeds = graph_of(op, case)
    source = source_of(graph)
    emit({op: graph}, source, tmp_path, EmitOptions(8))
    model = compiled(tmp_path)
    results = model({tensor.get_any_name(): feeds[tensor.get_any_name()] for tensor in model.inputs})
    for name, want in run(graph, feeds, source).items():
        got = results[name]
        assert got.dtype == want.dtype and got.shape == want.shape, name
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("op", "attrs"), WITHOUT_INPUTS)
def test_ops_without_inputs(op: str, attrs: dict[str, Any], tmp_path: Path) -> None:
    """Sizes are read off the file's inputs."""
    graph = Graph(op)
    graph.add_input("x", "int32", ("batch", "sequence"))
    dtype = attrs.get("dtype", "int32")
    y = graph.add_node(op, [], **attrs)
    graph.outputs["y"] = graph.add_node("add", [y, graph.add_constant(np.asarray(0, dtype))])
    emit({op: graph}, RandomSource({}), tmp_path, EmitOptions(8))
    feeds = {"x": np.zeros((2, 3), np.int32)}
    model = compiled(tmp_path)
    got = model({tensor.get_any_name(): feeds[tensor.get_any_name()] for tensor in model.inputs})["y"]
    (want,) = run(graph, feeds).values()
    assert got.dtype == want.dtype and got.shape == want.shape and (got == want).all()
