"""Small graphs, random numbers and comparisons for the tests of graphs/."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Node, TensorType
from kexport.graphs.ops import infer_types
from kexport.graphs.passes import RemoveDeadCode
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.dtypes import numpy_dtype


@dataclass
class NamedNumbers:
    """A WeightSource: the same numbers for the same name, whatever is asked for first. `reads` notes the names."""

    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, graph: Graph) -> NamedNumbers:
        """Knows every parameter of the graph."""
        parameters = [parameter for weight in graph.weights.values() for parameter in weight.parameters()]
        return cls({parameter.name: (parameter.shape, parameter.dtype) for parameter in parameters})

    def read(self, name: str) -> Any:
        """Normal numbers."""
        self.reads.append(name)
        shape, dtype = self.shapes[name]
        return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(numpy_dtype(dtype))


def parameter(graph: Graph, name: str, *shape: int, dtype: str = "float32") -> str:
    """Add a parameter; gives the value's name."""
    return graph.add_weight(Parameter(shape, dtype, name))


def add_split(graph: Graph, x: str, axis: int, sizes: tuple[int, ...]) -> tuple[str, ...]:
    """Add a split, the one op with several outputs."""
    node = Node("split", (x,), tuple(graph.fresh_name(f"part{index}") for index in range(len(sizes))), {"axis": axis, "sizes": sizes})
    for name, type_ in zip(node.outputs, infer_types(graph, node), strict=True):
        graph.types[name] = type_
    graph.nodes.append(node)
    return node.outputs


def graph_of(inputs: Mapping[str, TensorType], name: str = "test") -> Graph:
    """An empty graph with these inputs."""
    graph = Graph(name)
    for key, type_ in inputs.items():
        graph.add_input(key, type_.dtype, type_.shape)
    return graph


def ops_of(graph: Graph) -> list[str]:
    """The ops in order."""
    return [node.op for node in graph.nodes]


def applied(graph: Graph, one: Pass) -> tuple[Graph, Result]:
    """A copy after the pass, verified, and after it a second run that must change nothing."""
    changed = graph.copy()
    result = one(changed)
    verify(changed)
    again = one(changed.copy())
    assert again.changes == 0, f"{one.name} changes something on its second run"
    return changed, result


def same_outputs(before: Graph, after: Graph, feeds: Mapping[str, Any], *, total: int = 0, tolerance: float = 0.0, **dims: int) -> None:
    """Both graphs give the same numbers and leave the same caches."""
    results = []
    for graph in (before, after):
        caches = new_caches(graph, int(dims.get("batch", 2)), total) if graph.slots else None
        outputs = run(graph, {name: feeds[name] for name in graph.inputs}, NamedNumbers.of(graph), caches, **dims)
        results.append((outputs, caches or {}))
    (expected, expected_caches), (got, got_caches) = results
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        compare(got[name], array, tolerance, name)
    for slot in expected_caches.keys() & got_caches.keys():
        for part in range(2):
            compare(got_caches[slot][part], expected_caches[slot][part], tolerance, slot)


def compare(got: Any, expected: Any, tolerance: float, name: str) -> None:
    """Equal dtype and shape, numbers within `tolerance` (0: equal)."""
    assert got.dtype == expected.dtype and got.shape == expected.shape, (
        f"{name}: {got.dtype}{got.shape} for {expected.dtype}{expected.shape}"
    )
    if tolerance == 0:
        assert np.array_equal(got, expected), name
    else:
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=name)


def without_dead_code(graph: Graph) -> Graph:
    """The same graph, without what no output needs."""
    copy = graph.copy()
    RemoveDeadCode(frozenset(graph.inputs))(copy)
    return copy
