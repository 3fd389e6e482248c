"""Small decoder artifacts built by hand with onnx.helper: what the engine's tests run on, without converter or Keras.

The decoder follows the contract of ONNX artifacts: `com.microsoft.GroupQueryAttention` with rotary inside, past and present of one
length, logits of each row's last real token. `write_decoder` makes a decoder-only artifact, `write_encoder_decoder` a seq2seq one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import Cache, CacheSlot, File, Generation, Manifest, Producer, Signature, Source, TensorSpec
from kexport.runtime.contract.manifest_io import write_manifest
from onnx import TensorProto, helper, numpy_helper

_CONTRIB = "com.microsoft"
_OPSET = 21
_IR_VERSION = 10
_EPSILON = 1e-6
_ROTARY_BASE = 10000.0
_OUTPUT_GAIN = 3.0  # layers speak louder than the embedding, so that greedy tokens depend on the history
_LAYOUT = ("batch", "key_value_heads", "capacity", "head_dim")


@dataclass(frozen=True)
class Sizes:
    """The shape of the model; the defaults give one that runs in well under a millisecond."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 16
    intermediate: int = 128
    vocabulary: int = 96
    capacity: int = 64
    window: int = -1
    seed: int = 7


@dataclass
class _Graph:
    """Nodes, weights and value infos while a graph is being built."""

    sizes: Sizes
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.sizes.seed)

    def op(self, kind: str, inputs: Sequence[str], name: str, *, domain: str = "", outputs: Sequence[str] = (), **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name, *outputs], name=name, domain=domain, **attributes))
        return name

    def weight(self, name: str, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def matrix(self, name: str, rows: int, columns: int, gain: float = 1.0) -> str:
        values = self.random.standard_normal((rows, columns), np.float32) * np.float32(gain / np.sqrt(rows))
        return self.weight(name, values)

    def linear(self, x: str, name: str, rows: int, columns: int, gain: float = 1.0) -> str:
        return self.op("MatMul", [x, self.matrix(f"{name}.weight", rows, columns, gain)], name)

    def norm(self, x: str, name: str) -> str:
        scale = self.weight(f"{name}.scale", np.ones(self.sizes.hidden, np.float32))
        return self.op("SimplifiedLayerNormalization", [x, scale], name, axis=-1, epsilon=_EPSILON)

    def value(self, name: str, kind: int, shape: Sequence[Any], *, output: bool = False) -> str:
        (self.outputs if output else self.inputs).append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def save(self, path: Path, *, external: bool = False) -> None:
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.save_model(model, str(path), save_as_external_data=external, location=f"{path.name}.data", size_threshold=1024)


def write_decoder(
    directory: Path, sizes: Sizes | None = None, *, logits: str = "last", position_ids: bool = False, external: bool = False
) -> Manifest:
    """Write `model.onnx` and its manifest into `directory`; `position_ids` adds learned positions read from that input."""
    sizes = sizes or Sizes()
    directory.mkdir(parents=True, exist_ok=True)
    graph = _Graph(sizes)
    _decoder_inputs(graph, position_ids)
    x = _embed(graph, position_ids)
    _lengths(graph)
    for layer in range(sizes.layers):
        x = _self_attention(graph, x, layer, f"past_key_values.{layer}", f"present.{layer}")
        x = _mlp(graph, x, layer)
    _head(graph, x, logits)
    graph.save(directory / "model.onnx", external=external)
    slots = tuple(_slot(sizes, layer, "self", f"past_key_values.{layer}", f"present.{layer}") for layer in range(sizes.layers))
    signature = _step_signature(sizes, slots, "model.onnx", logits, position_ids)
    return _write_manifest(directory, sizes, "causal-lm", slots, (signature,))


def write_encoder_decoder(directory: Path, sizes: Sizes | None = None) -> Manifest:
    """Write `encoder_model.onnx`, `decoder_model.onnx` and their manifest into `directory`."""
    sizes = sizes or Sizes()
    directory.mkdir(parents=True, exist_ok=True)
    _write_encoder(directory, sizes)
    graph = _Graph(sizes)
    _decoder_inputs(graph, position_ids=False, infix=".decoder")
    graph.value("encoder_attention_mask", TensorProto.INT64, ["batch", "encoder_sequence"])
    for layer in range(sizes.layers):
        for part in ("key", "value"):
            shape = ["batch", sizes.key_value_heads, "encoder_sequence", sizes.head_dim]
            graph.value(f"past_key_values.{layer}.encoder.{part}", TensorProto.FLOAT, shape)
    x = _embed(graph, position_ids=False)
    _lengths(graph)
    _cross_bias(graph)
    for layer in range(sizes.layers):
        x = _self_attention(graph, x, layer, f"past_key_values.{layer}.decoder", f"present.{layer}.decoder")
        x = _cross_attention(graph, x, layer)
        x = _mlp(graph, x, layer)
    _head(graph, x, "last")
    graph.save(directory / "decoder_model.onnx")
    own = [_slot(sizes, i, "self", f"past_key_values.{i}.decoder", f"present.{i}.decoder") for i in range(sizes.layers)]
    cross = [_slot(sizes, i, "cross", f"past_key_values.{i}.encoder", f"present.{i}.encoder") for i in range(sizes.layers)]
    slots = (*own, *cross)
    step = _step_signature(sizes, slots, "decoder_model.onnx", "last", False)
    encode = Signature(
        name="encode",
        file="encoder_model.onnx",
        inputs=tuple(_ids(name, "encoder_sequence") for name in ("input_ids", "attention_mask")),
        outputs=tuple(_tensor(sizes, name, "encoder_sequence") for slot in cross for name in slot.outputs),
    )
    return _write_manifest(directory, sizes, "seq2seq-lm", slots, (step, encode))


def _decoder_inputs(graph: _Graph, position_ids: bool, infix: str = "") -> None:
    sizes = graph.sizes
    graph.value("input_ids", TensorProto.INT64, ["batch", "sequence"])
    graph.value("attention_mask", TensorProto.INT64, ["batch", "total"])
    if position_ids:
        graph.value("position_ids", TensorProto.INT64, ["batch", "sequence"])
    for layer in range(sizes.layers):
        for part in ("key", "value"):
            shape = ["batch", sizes.key_value_heads, "capacity", sizes.head_dim]
            graph.value(f"past_key_values.{layer}{infix}.{part}", TensorProto.FLOAT, shape)
            graph.value(f"present.{layer}{infix}.{part}", TensorProto.FLOAT, shape, output=True)


def _embed(graph: _Graph, position_ids: bool) -> str:
    sizes = graph.sizes
    table = graph.weight("embedding", graph.random.standard_normal((sizes.vocabulary, sizes.hidden), np.float32) * np.float32(0.5))
    x = graph.op("Gather", [table, "input_ids"], "embedded")
    if not position_ids:
        return x
    positions = graph.weight("positions", graph.random.standard_normal((sizes.capacity, sizes.hidden), np.float32))
    return graph.op("Add", [x, graph.op("Gather", [positions, "position_ids"], "placed")], "embedded_and_placed")


def _lengths(graph: _Graph) -> None:
    """seqlens_k and total_sequence_length, the rotary tables, and each row's last real position of this call."""
    sizes = graph.sizes
    one = graph.weight("one", np.array(1, np.int64))
    last_axis = graph.weight("last_axis", np.array([1], np.int64))
    zero = graph.weight("zero", np.array(0, np.int64))
    row_total = graph.op("ReduceSum", ["attention_mask", last_axis], "row_total", keepdims=0)
    graph.op("Cast", [graph.op("Sub", [row_total, one], "row_total_minus_one")], "seqlens_k", to=TensorProto.INT32)
    total = graph.op("Gather", [graph.op("Shape", ["attention_mask"], "mask_shape"), one], "total")
    graph.op("Cast", [total], "total_sequence_length", to=TensorProto.INT32)
    sequence = graph.op("Gather", [graph.op("Shape", ["input_ids"], "ids_shape"), one], "sequence")
    past = graph.op("Sub", [total, sequence], "past_of_longest")
    unclipped = graph.op("Sub", ["row_total_minus_one", past], "last_unclipped")
    graph.op("Clip", [unclipped, zero, graph.op("Sub", [sequence, one], "last_column")], "last_position")
    frequencies = _ROTARY_BASE ** (-np.arange(0, sizes.head_dim, 2) / sizes.head_dim)
    angles = np.arange(sizes.capacity)[:, None] * frequencies
    graph.weight("cos", np.cos(angles).astype(np.float32))
    graph.weight("sin", np.sin(angles).astype(np.float32))


def _self_attention(graph: _Graph, x: str, layer: int, past: str, present: str) -> str:
    sizes, prefix = graph.sizes, f"layer.{layer}.self"
    width, kv_width = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    normed = graph.norm(x, f"{prefix}.norm")
    packed = graph.linear(normed, f"{prefix}.qkv", sizes.hidden, width + 2 * kv_width)
    inputs = [packed, "", "", f"{past}.key", f"{past}.value", "seqlens_k", "total_sequence_length", "cos", "sin"]
    attended = graph.op(
        "GroupQueryAttention", inputs, f"{prefix}.attended", domain=_CONTRIB, outputs=[f"{present}.key", f"{present}.value"],
        num_heads=sizes.heads, kv_num_heads=sizes.key_value_heads, do_rotary=1, local_window_size=sizes.window,
    )  # fmt: skip
    return graph.op("Add", [x, graph.linear(attended, f"{prefix}.out", width, sizes.hidden, _OUTPUT_GAIN)], f"{prefix}.sum")


def _mlp(graph: _Graph, x: str, layer: int) -> str:
    sizes, prefix = graph.sizes, f"layer.{layer}.mlp"
    up = graph.linear(graph.norm(x, f"{prefix}.norm"), f"{prefix}.up", sizes.hidden, sizes.intermediate)
    active = graph.op("Relu", [up], f"{prefix}.active")
    return graph.op("Add", [x, graph.linear(active, f"{prefix}.down", sizes.intermediate, sizes.hidden, _OUTPUT_GAIN)], f"{prefix}.sum")


def _head(graph: _Graph, x: str, logits: str) -> None:
    sizes = graph.sizes
    if logits == "last":
        axes = graph.weight("gather_axes", np.array([1, 2], np.int64))
        index = graph.op("Unsqueeze", ["last_position", axes], "last_index")
        ones = graph.weight("one_one_hidden", np.array([1, 1, sizes.hidden], np.int64))
        x = graph.op("GatherElements", [x, graph.op("Expand", [index, ones], "last_indices")], "last_hidden", axis=1)
    graph.linear(graph.norm(x, "final.norm"), "logits", sizes.hidden, sizes.vocabulary, gain=3.0)
    graph.value("logits", TensorProto.FLOAT, ["batch", 1 if logits == "last" else "sequence", sizes.vocabulary], output=True)


def _write_encoder(directory: Path, sizes: Sizes) -> None:
    graph = _Graph(sizes)
    graph.value("input_ids", TensorProto.INT64, ["batch", "encoder_sequence"])
    graph.value("attention_mask", TensorProto.INT64, ["batch", "encoder_sequence"])
    x = graph.norm(_embed(graph, position_ids=False), "norm")
    split = graph.weight("split", np.array([0, 0, sizes.key_value_heads, sizes.head_dim], np.int64))
    for layer in range(sizes.layers):
        for part in ("key", "value"):
            name = f"present.{layer}.encoder.{part}"
            flat = graph.linear(x, f"{name}.flat", sizes.hidden, sizes.key_value_heads * sizes.head_dim)
            graph.op("Transpose", [graph.op("Reshape", [flat, split], f"{name}.split")], name, perm=[0, 2, 1, 3])
            graph.value(name, TensorProto.FLOAT, ["batch", sizes.key_value_heads, "encoder_sequence", sizes.head_dim], output=True)
    graph.save(directory / "encoder_model.onnx")


def _cross_bias(graph: _Graph) -> None:
    """0 on real encoder tokens, a large negative number on padding: [batch, 1, 1, encoder sequence]."""
    axes = graph.weight("bias_axes", np.array([1, 2], np.int64))
    wide = graph.op("Unsqueeze", ["encoder_attention_mask", axes], "wide_mask")
    real = graph.op("Cast", [wide], "real_mask", to=TensorProto.FLOAT)
    shifted = graph.op("Sub", [real, graph.weight("one_float", np.array(1, np.float32))], "shifted_mask")
    graph.op("Mul", [shifted, graph.weight("large", np.array(1e9, np.float32))], "cross_bias")


def _cross_attention(graph: _Graph, x: str, layer: int) -> str:
    """As many query heads as key-value heads, plain ops."""
    sizes, prefix = graph.sizes, f"layer.{layer}.cross"
    width = sizes.key_value_heads * sizes.head_dim
    split = graph.weight(f"{prefix}.split", np.array([0, 0, sizes.key_value_heads, sizes.head_dim], np.int64))
    merge = graph.weight(f"{prefix}.merge", np.array([0, 0, width], np.int64))
    flat = graph.linear(graph.norm(x, f"{prefix}.norm"), f"{prefix}.query", sizes.hidden, width)
    query = graph.op("Transpose", [graph.op("Reshape", [flat, split], f"{prefix}.q4")], f"{prefix}.q", perm=[0, 2, 1, 3])
    key = graph.op("Transpose", [f"past_key_values.{layer}.encoder.key"], f"{prefix}.k", perm=[0, 1, 3, 2])
    scores = graph.op("Add", [graph.op("MatMul", [query, key], f"{prefix}.qk"), "cross_bias"], f"{prefix}.scores")
    weights = graph.op("Softmax", [scores], f"{prefix}.weights", axis=-1)
    mixed = graph.op("MatMul", [weights, f"past_key_values.{layer}.encoder.value"], f"{prefix}.mixed")
    merged = graph.op("Reshape", [graph.op("Transpose", [mixed], f"{prefix}.m4", perm=[0, 2, 1, 3]), merge], f"{prefix}.merged")
    return graph.op("Add", [x, graph.linear(merged, f"{prefix}.out", width, sizes.hidden)], f"{prefix}.sum")


def _ids(name: str, length: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=("batch", length))


def _tensor(sizes: Sizes, name: str, length: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", sizes.key_value_heads, length, sizes.head_dim))


def _slot(sizes: Sizes, layer: int, kind: Any, past: str, present: str) -> CacheSlot:
    return CacheSlot(
        name=f"{kind}.{layer}", kind=kind, num_key_value_heads=sizes.key_value_heads, head_dim=sizes.head_dim, value_head_dim=sizes.head_dim,
        dtype="float32", layout=_LAYOUT, inputs=(f"{past}.key", f"{past}.value"), outputs=(f"{present}.key", f"{present}.value"),
    )  # fmt: skip


def _step_signature(sizes: Sizes, slots: Sequence[CacheSlot], file: str, logits: Any, position_ids: bool) -> Signature:
    lengths = {"self": "capacity", "cross": "encoder_sequence"}
    inputs = [_ids("input_ids", "sequence"), _ids("attention_mask", "total")]
    if position_ids:
        inputs.append(_ids("position_ids", "sequence"))
    if any(slot.kind == "cross" for slot in slots):
        inputs.append(_ids("encoder_attention_mask", "encoder_sequence"))
    inputs += [_tensor(sizes, name, lengths[slot.kind]) for slot in slots for name in slot.inputs]
    logits_spec = TensorSpec(name="logits", dtype="float32", shape=("batch", 1 if logits == "last" else "sequence", sizes.vocabulary))
    outputs = [logits_spec, *(_tensor(sizes, name, "capacity") for slot in slots if slot.kind == "self" for name in slot.outputs)]
    return Signature(
        name="extend", file=file, inputs=tuple(inputs), outputs=tuple(outputs), returns_logits=logits, max_batch_with_past=1
    )  # fmt: skip


def _write_manifest(directory: Path, sizes: Sizes, task: Any, slots: tuple[CacheSlot, ...], signatures: tuple[Signature, ...]) -> Manifest:
    files = sorted(path for path in directory.iterdir() if path.suffix in (".onnx", ".data"))
    manifest = Manifest(
        producer=Producer(kexport="test"),
        source=Source(handle="hand-built", class_name="Test"),
        task=task,
        target="onnx",
        signatures=signatures,
        cache=Cache(slots=slots, layers=(), capacity=sizes.capacity),
        generation=Generation(vocabulary_size=sizes.vocabulary, max_length=sizes.capacity),
        files=tuple(File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)) for path in files),
    )
    write_manifest(directory, manifest)
    return manifest
