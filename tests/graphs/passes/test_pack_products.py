"""Several products of one input become one; what must stay apart stays apart."""

from __future__ import annotations

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.passes import PackProducts
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter

from tests.targets.onnx.toys import source_of


def products(*sizes: int, bias: tuple[int, ...] = ()) -> Graph:
    """x through one product for each size, those at the places in `bias` with a bias."""
    graph = Graph("extend")
    graph.slots["self.0"] = Slot("self", 1, 4, 4)
    x = graph.add_input("x", "float32", ("batch", "sequence", 8))
    for place, size in enumerate(sizes):
        inputs = [x, graph.add_weight(Parameter((8, size), "float32", f"kernel{place}"))]
        inputs += [graph.add_weight(Parameter((size,), "float32", f"bias{place}"))] if place in bias else []
        graph.outputs[f"y{place}"] = graph.add_node("linear", inputs)
    return graph


@pytest.mark.parametrize(("bias", "left"), [((), 1), ((0, 1, 2), 1), ((1,), 2)])
def test_packed_products_give_the_same_numbers(bias: tuple[int, ...], left: int) -> None:
    """All without or all with a bias are one product; one with a bias stays by itself. A second run changes nothing."""
    graph = products(4, 6, 5, bias=bias)
    source, feeds = source_of(graph), {"x": np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)}
    want = run(graph, feeds, source)
    assert PackProducts()(graph).changes == 1
    verify(graph)
    assert len(list(graph.of_op("linear"))) == left
    got = run(graph, feeds, source)
    assert all(np.allclose(got[name], want[name], rtol=1e-5, atol=1e-6) for name in want)
    assert PackProducts()(graph).changes == 0


def test_a_table_that_is_read_elsewhere_is_not_copied() -> None:
    """A tied head reads its table; packing would store it twice."""
    graph = products(4, 6)
    ids = graph.add_input("ids", "int32", ("batch",))
    graph.outputs["rows"] = graph.add_node("embedding", [graph.add_weight(Parameter((8, 4), "float32", "kernel0").transpose((1, 0))), ids])
    assert PackProducts()(graph).changes == 0


def test_different_inputs_stay_apart() -> None:
    """Products of different values."""
    graph = products(8)
    graph.outputs["z"] = graph.add_node("linear", [graph.outputs["y0"], graph.add_weight(Parameter((8, 3), "float32", "next"))])
    assert PackProducts()(graph).changes == 0


def test_a_graph_without_its_own_cache_stays() -> None:
    """An encoder's products have many rows: nothing is gained by packing them."""
    graph = products(4, 6)
    graph.slots.clear()
    assert PackProducts()(graph).changes == 0
