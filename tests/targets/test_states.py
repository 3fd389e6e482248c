"""What targets record of states: slots, names, layers, bounds, fusions, and which runtimes take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, State
from kexport.graphs.verify import verify
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import CacheSlot, Signature
from kexport.targets import get
from kexport.targets.base import EmitOptions
from kexport.targets.geometry import recurrences
from kexport.targets.lowerable import bound

from tests.targets.onnx.toys import source_of
from tests.targets.recurrent import CAPACITY, CHUNK, GRAPHS, HEADS, KEPT, KEY, TARGETS, VALUE, Files, hybrid, write

EACH = [pytest.param(target, marks=[pytest.mark.slow] if target == "savedmodel" else []) for target in TARGETS]
WIDTH = HEADS * (2 * KEY + VALUE)
TENSORS = {  # target -> how the second state of a kind goes in and comes out
    "onnx": ("past_{}.1", "present_{}.1"),
    "openvino": ("past_{}.1", "present_{}.1"),
    "tflite": ("{}_state_1", "{}_state_1"),
    "savedmodel": ("{}_state_1", "{}_state_1"),
}


def slots_of(files: Files) -> dict[str, CacheSlot]:
    return {slot.name: slot for slot in files.emitted.cache.slots}


@pytest.mark.parametrize("target", EACH)
def test_slots_and_layers(target: str, tmp_path: Path) -> None:
    """States are slots with their shapes and tensors; those of one number are one layer; a KV slot stands between them."""
    files = write(target, "hybrid", tmp_path)
    slots, cache = slots_of(files), files.emitted.cache
    past, present = TENSORS[target]
    for name, kind, stem, shape in (
        ("convolution.2", "convolution", "conv", (KEPT, WIDTH)),
        ("recurrent.2", "recurrent", "recurrent", (HEADS, KEY, VALUE)),
    ):
        slot = slots[name]
        assert (slot.kind, slot.shape, slot.num_key_value_heads) == (kind, shape, 0)
        assert (slot.inputs, slot.outputs) == ((past.format(stem),), (present.format(stem),))
        assert len(slot.layout) == len(shape) + 1
    assert cache.layers == (("convolution.0", "recurrent.0"), ("self.0",), ("convolution.2", "recurrent.2"))
    assert cache.state_bytes == 2 * 4 * (KEPT * WIDTH + HEADS * KEY * VALUE)
    assert cache.bytes_at_capacity == CAPACITY * cache.bytes_per_token + cache.state_bytes
    assert files.emitted.geometry.layers == 3


@pytest.mark.parametrize("target", EACH)
def test_signatures(target: str, tmp_path: Path) -> None:
    """States go in and out of every step beside the model itself; a call's longest length is said, or is the signature's own."""
    files = write(target, "states only", tmp_path)
    steps = [signature for signature in files.emitted.signatures if signature.name != names.ENCODE]
    assert steps
    for signature in steps:
        inputs, outputs = ({spec.name for spec in side} for side in (signature.inputs, signature.outputs))
        for slot in files.emitted.cache.slots:
            inside = target == "openvino"
            assert (set(slot.inputs) <= inputs) != inside and (set(slot.outputs) <= outputs) != inside
        assert longest(signature) <= CHUNK


def longest(signature: Signature) -> int:
    return max(signature.sequence_lengths, default=0) or signature.max_sequence or CAPACITY


@pytest.mark.parametrize("target", EACH)
@pytest.mark.parametrize("name", GRAPHS)
def test_vendors_runtimes(target: str, name: str, tmp_path: Path) -> None:
    """Runtimes of generation that know no such states refuse, with that reason; those that run any graph accept."""
    files = write(target, name, tmp_path)
    _, verdicts = get(target).write_vendor_files(tmp_path, files.emitted)
    refused = {verdict.name: verdict.reason for verdict in verdicts if not verdict.accepted}
    vendors = {"onnx": {"onnxruntime-genai"}, "openvino": {"openvino-genai", "openvino-genai (paged attention)"}, "tflite": {"litert-lm"}, "savedmodel": set()}
    assert set(refused) == vendors[target]
    assert all("recurrent layers" in reason for reason in refused.values())
    if target == "savedmodel":
        assert all("no `generate` signature" in verdict.reason for verdict in verdicts)
        assert names.GENERATE not in {signature.name for signature in files.emitted.signatures}


@pytest.mark.parametrize("target", EACH)
def test_recurrent_layers_are_recorded(target: str, tmp_path: Path) -> None:
    """Beside the attention each recurrent layer has its line."""
    fusions = {fusion.layer: fusion for fusion in write(target, "hybrid", tmp_path).emitted.fusions}
    for layer in ("layer0.delta", "layer2.delta"):
        assert fusions[layer].form == "delta rule, parallel over a chunk"
        assert fusions[layer].fused and str(CHUNK) in fusions[layer].reason
    assert set(fusions) == {"layer0.delta", "layer1.attention", "layer2.delta"}


def test_a_recurrence_of_plain_ops_is_no_fusion() -> None:
    """What was captured as its original wrote it is said to be that."""
    graph = Graph("extend")
    x = graph.add_input("x", "float32", (BATCH, 4))
    state = graph.add_state("recurrent.0", State("recurrent", (4,)))
    graph.outputs = {"y": (y := graph.add_node("add", [x, state])), "recurrent.0": y}
    (fusion,) = recurrences(graph)
    assert not fusion.fused and fusion.form == "plain operators"


def test_litert_lm_bundles_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    graph = hybrid()
    with pytest.raises(UnsupportedError, match="recurrent") as caught:
        get("tflite").emit({"extend": graph}, source_of(graph), tmp_path, EmitOptions(CAPACITY, package="litertlm"))
    assert caught.value.code == "KX236"
    assert not list(tmp_path.iterdir())


def test_tflite_signatures_have_the_form_of_their_length(tmp_path: Path) -> None:
    """A decode step is the one-token update; prefills are the parallel form, and no longer than its chunk; masks are constants."""
    from ai_edge_litert import schema_py_generated as schema

    write("tflite", "hybrid", tmp_path)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((tmp_path / "model.tflite").read_bytes()))
    forms = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found: dict[str, list[str]] = {}
    for signature in model.signatureDefs:
        operators = model.subgraphs[signature.subgraphIndex].operators
        found[signature.signatureKey.decode()] = [forms[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in operators]
    assert {name for name in found if name.startswith("prefill")} == {"prefill_2", "prefill_4", f"prefill_{CHUNK}"}
    assert found["decode"].count("BATCH_MATMUL") == 2 + 2 * 4  # attention, and four products a delta rule
    assert found[f"prefill_{CHUNK}"].count("BATCH_MATMUL") > 2 * 10
    for operators in found.values():
        assert not {"LESS", "LESS_EQUAL", "EQUAL", "ONE_HOT"} & set(operators)
        assert operators.count("CAST") <= 1  # of the positions, for the attention's mask


def test_onnx_steps_have_a_branch_of_their_own(tmp_path: Path) -> None:
    """Of the two branches that of one token is the short one, and the weights stand outside of both."""
    import onnx

    write("onnx", "hybrid", tmp_path)
    graph = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph
    choices = [node for node in graph.node if node.op_type == "If"]
    assert len(choices) == 2
    assert len({node.input[0] for node in choices}) == 1
    for node in choices:
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        short, long = (branches[name] for name in ("then_branch", "else_branch"))
        assert [part.op_type for part in short.node].count("MatMul") == 4
        assert 3 * len(short.node) < len(long.node)
        assert not short.initializer and not long.initializer
    assert sum(node.op_type == "MatMul" for node in graph.node) == 2 * (1 + 1 + 1 + 1) + 2 + 1  # a delta layer's four, attention's two, the head


def test_bound_sizes_change_no_number() -> None:
    """A graph with its number of tokens put in gives what the open one gives, reshapes and ranges included."""
    graph = Graph("test")
    x = graph.add_input("x", "float32", (BATCH, SEQUENCE, 4))
    flat = graph.add_node("reshape", [x], shape=("2*batch*sequence", 2))
    places = graph.add_node("reshape", [graph.add_node("range", [], size=SEQUENCE, dtype="float32")], shape=(SEQUENCE, 1))
    graph.outputs = {"flat": flat, "sum": graph.add_node("add", [x, places])}
    fixed = bound(graph, {SEQUENCE: 3})
    verify(fixed)
    assert fixed.type_of(flat).shape == ("6*batch", 2) and graph.type_of(flat).shape == ("2*batch*sequence", 2)
    feeds: dict[str, Any] = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    for name, want in run(graph, feeds).items():
        np.testing.assert_array_equal(run(fixed, feeds)[name], want)
