"""Every op of the graph's table runs in TensorFlow as it does in the interpreter, by the cases of the table of the ONNX target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ops import OPS
from kexport.graphs.passes.decompose import decompose
from kexport.targets.onnx.lowering import Case

from tests.targets.onnx.test_lowerings import CASES, TAKEN_APART, WITHOUT_INPUTS, graph_of
from tests.targets.onnx.toys import source_of

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


def rendered(graph: Any, source: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    """The graph's outputs by a traced TensorFlow function whose batch and sequence are open."""
    from kexport.runtime.plain_tensorflow import tf
    from kexport.targets.savedmodel.builder import Builder
    from kexport.targets.savedmodel.lowering import LOWERINGS
    from kexport.targets.savedmodel.weight_tensors import WeightTensors

    graph = graph.copy()
    decompose(graph, keep=set(LOWERINGS))

    class Filled(WeightTensors):
        def variable(self, weight: Any) -> Any:
            return tf.constant(weight.materialize(source))

    specs = {
        name: tf.TensorSpec([None if isinstance(dim, str) else dim for dim in type_.shape], type_.dtype)
        for name, type_ in graph.inputs.items()
    }

    @tf.function(autograph=False)
    def function(**tensors: Any) -> dict[str, Any]:
        sizes = {
            dim: tf.shape(tensors[name])[axis]
            for name, type_ in graph.inputs.items()
            for axis, dim in enumerate(type_.shape)
            if isinstance(dim, str)
        }
        b = Builder(graph, sizes, Filled())
        for name, tensor in tensors.items():
            b.set(name, tensor)
        for node in graph.nodes:
            LOWERINGS[node.op](node, b)
        return {name: tf.identity(b.value(value)) for name, value in graph.outputs.items()}

    results = function.get_concrete_function(**specs)(**{name: tf.constant(array) for name, array in feeds.items()})
    return {name: tensor.numpy() for name, tensor in results.items()}


def test_every_op_has_a_lowering() -> None:
    """No op of the table is left to chance: what has no lowering is taken apart."""
    from kexport.targets.savedmodel import ops as _ops  # noqa: F401
    from kexport.targets.savedmodel.lowering import LOWERINGS

    assert set(LOWERINGS) <= set(OPS)
    assert set(OPS) - set(LOWERINGS) <= TAKEN_APART


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op}: {case.title}" for op, case in CASES])
def test_lowering(op: str, case: Case) -> None:
    """The case's result is the interpreter's, dtype and shape included."""
    graph, feeds = graph_of(op, case)
    source = source_of(graph)
    got, want = rendered(graph, source, feeds), run(graph, feeds, source)
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype and got[name].shape == expected.shape, name
        bound = max(case.tolerance, TOLERANCE)
        np.testing.assert_allclose(got[name].astype(np.float64), expected.astype(np.float64), rtol=bound, atol=bound)


@pytest.mark.parametrize(("op", "attrs"), WITHOUT_INPUTS)
def test_ops_without_inputs(op: str, attrs: dict[str, Any]) -> None:
    """Sizes are read off what is fed."""
    from kexport.graphs.ir import Graph

    graph = Graph(op)
    graph.add_input("x", "int32", ("batch", "sequence"))
    y = graph.add_node(op, [], **attrs)
    graph.outputs["y"] = graph.add_node("add", [y, graph.add_constant(np.asarray(0, attrs.get("dtype", "int32")))])
    feeds = {"x": np.zeros((2, 3), np.int32)}
    got, want = rendered(graph, None, feeds)["y"], run(graph, feeds)["y"]
    assert got.dtype == want.dtype and got.shape == want.shape and (got == want).all()
