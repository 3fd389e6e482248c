"""An op without an ONNX lowering is taken apart by the graph's own decompositions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport.graphs.ir import Node
from kexport.graphs.ops import OPS
from kexport.graphs.ops.spec import OpSpec
from kexport.runtime.contract.errors import UnsupportedError
from kexport.targets.onnx.lowering import LOWERINGS

from tests.targets.onnx.toys import Toy, compare, decoder, op_counts, write

BOUND = 5e-6
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "gelu": ({"activation": "gelu"}, "Gelu"),
    "silu": ({}, "QuickGelu"),
    "rms_norm": ({"offset": 1.0}, "SimplifiedLayerNormalization"),
    "layer_norm": ({"norm": "layer_norm"}, "LayerNormalization"),
    "last_token": ({}, "GatherND"),
    "linear": ({"bias": True}, "FusedMatMul"),
}


@pytest.mark.parametrize("op", LEFT_OUT)
def test_op_without_lowering_is_decomposed(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file still gives the interpreter's logits, without the operator that the lowering would have written."""
    monkeypatch.delitem(LOWERINGS, op)
    options, operator = LEFT_OUT[op]
    graph = decoder(Toy(**options))
    before = [node.op for node in graph.nodes]
    files = write(tmp_path, graph)
    assert compare(files).difference < BOUND
    assert operator not in op_counts(files)
    assert [node.op for node in graph.nodes] == before  # the caller's graph is left as it was


def test_op_without_either_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An op that nothing can render is named, with its layer."""
    plain = OPS["neg"]
    monkeypatch.setitem(OPS, "strange", OpSpec("strange", "unknown", ("x",), {}, plain.infer, plain.evaluate, False))
    graph = decoder(Toy())
    last: Node = graph.nodes[-1]
    graph.outputs["logits"] = graph.add_node("strange", [last.output], layer="head")
    with pytest.raises(UnsupportedError, match=r"`strange` in layer head"):
        write(tmp_path, graph)
    assert not list(tmp_path.iterdir())
