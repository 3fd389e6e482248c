"""Small hand-built graphs, random weights, and the two ways to run them: the interpreter and onnxruntime."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Node, Slot, TensorType
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter, Weight, concatenate
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.onnx import emit

CAPACITY = 24
ROPE_BASE = 10000.0


@dataclass
class RandomSource:
    """Weights from their names: the same in every process. `live` counts bytes handed out and not yet released."""

    shapes: dict[str, tuple[tuple[int, ...], str]]
    scale: float = 1.0
    reads: list[str] = field(default_factory=list)

    def read(self, name: str) -> Any:
        self.reads.append(name)
        shape, dtype = self.shapes[name]
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        spread = self.scale if len(shape) < 2 or "embed" in name else self.scale * shape[0] ** -0.5
        return (draw * np.float32(spread)).astype(numpy_dtype(dtype))


def source_of(*graphs: Graph, scale: float = 1.0) -> RandomSource:
    """A source that knows every parameter of the graphs."""
    parameters = [parameter for graph in graphs for weight in graph.weights.values() for parameter in weight.parameters()]
    return RandomSource({parameter.name: (parameter.shape, parameter.dtype) for parameter in parameters}, scale)


@dataclass
class Toy:
    """What a toy decoder looks like."""

    vocabulary: int = 61
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    value_dim: int = 0
    rope: bool = True
    rope_half: int = 0
    rope_factor: float = 1.0
    learned_positions: bool = False
    windows: tuple[int | None, ...] = (None,)
    softcap: float | None = None
    alibi: bool = False
    mask: bool = False
    sinks: bool = False
    causal: bool = True
    packed: bool = True
    bias: bool = False
    norm: str = "rms_norm"
    offset: float = 0.0
    tied: bool = False
    final_softcap: float | None = None
    activation: str = "silu"
    plain_cache: bool = False
    cross: bool = False
    last_token: bool = True
    experts: int = 0
    taken: int = 2
    experts_form: str = "silu"


EXPERT_FORMS: dict[str, dict[str, Any]] = {
    "silu": {"activation": "silu"},
    "gelu": {"activation": "gelu_tanh"},
    "gpt-oss": {"activation": "silu", "alpha": 1.702, "limit": 0.75, "offset": 1.0},
}
WITH_BIASES = frozenset({"gpt-oss"})


def experts(graph: Graph, x: str, name: str, *, count: int, taken: int, form: str, intermediate: int = 24, normalised: bool = True) -> str:
    """A mixture of experts over x [tokens, hidden], with its router."""
    hidden = int(graph.type_of(x).shape[-1])
    chances = graph.add_node("softmax", [linear(graph, x, f"{name}.router", count)])
    best, ids = graph.add_nodes("topk", [chances], 2, k=taken)
    if normalised:
        best = graph.add_node("div", [best, graph.add_node("reduce_sum", [best], axes=(1,), keepdims=True)])
    shapes = {"gate": (hidden, intermediate), "up": (hidden, intermediate), "down": (intermediate, hidden)}
    inputs = [graph.add_weight(Parameter((count, *shape), "float32", f"{name}.{part}")) for part, shape in shapes.items()]
    if form in WITH_BIASES:
        inputs += [graph.add_weight(Parameter((count, shape[1]), "float32", f"{name}.{part}_bias")) for part, shape in shapes.items()]
    return graph.add_node("experts", [x, ids, best, *inputs], layer=name, **EXPERT_FORMS[form])


def linear(graph: Graph, x: str, name: str, size: int, bias: bool = False) -> str:
    width = int(graph.type_of(x).shape[-1])
    inputs = [x, graph.add_weight(Parameter((width, size), "float32", f"{name}.kernel"))]
    if bias:
        inputs.append(graph.add_weight(Parameter((size,), "float32", f"{name}.bias")))
    return graph.add_node("linear", inputs, layer=name)


def split(graph: Graph, x: str, sizes: tuple[int, ...]) -> tuple[str, ...]:
    type_ = graph.type_of(x)
    outputs = tuple(f"{x}.part{index}" for index in range(len(sizes)))
    for output, size in zip(outputs, sizes, strict=True):
        graph.types[output] = TensorType(type_.dtype, (*type_.shape[:-1], size))
    graph.nodes.append(Node("split", (x,), outputs, {"axis": len(type_.shape) - 1, "sizes": sizes}))
    return outputs


def norm(graph: Graph, toy: Toy, x: str, name: str) -> str:
    width = (int(graph.type_of(x).shape[-1]),)
    inputs = [x, graph.add_weight(Parameter(width, "float32", f"{name}.scale"))]
    if toy.norm == "layer_norm":
        inputs.append(graph.add_weight(Parameter(width, "float32", f"{name}.beta")))
        return graph.add_node("layer_norm", inputs, layer=name, epsilon=1e-5)
    return graph.add_node("rms_norm", inputs, layer=name, epsilon=1e-6, offset=toy.offset)


def projections(graph: Graph, toy: Toy, x: str, name: str) -> list[str]:
    """Queries, keys and values [batch, sequence, heads, dim]."""
    value_dim = toy.value_dim or toy.head_dim
    heads, dims = (toy.heads, toy.kv_heads, toy.kv_heads), (toy.head_dim, toy.head_dim, value_dim)
    sizes = tuple(h * d for h, d in zip(heads, dims, strict=True))
    if toy.packed:
        width = int(graph.type_of(x).shape[-1])
        kernels: tuple[Weight, ...] = tuple(
            Parameter((width, size), "float32", f"{name}.{part}.kernel") for part, size in zip("qkv", sizes, strict=True)
        )
        inputs = [x, graph.add_weight(concatenate(kernels, 1))]
        if toy.bias:
            biases: tuple[Weight, ...] = tuple(
                Parameter((size,), "float32", f"{name}.{part}.bias") for part, size in zip("qkv", sizes, strict=True)
            )
            inputs.append(graph.add_weight(concatenate(biases, 0)))
        flat: tuple[str, ...] = split(graph, graph.add_node("linear", inputs, layer=f"{name}.qkv"), sizes)
    else:
        flat = tuple(linear(graph, x, f"{name}.{part}", size, toy.bias) for part, size in zip("qkv", sizes, strict=True))
    return [
        graph.add_node("reshape", [part], shape=(*graph.type_of(part).shape[:2], h, d))
        for part, h, d in zip(flat, heads, dims, strict=True)
    ]


def frequencies(graph: Graph, toy: Toy) -> str:
    half = toy.rope_half or toy.head_dim // 2
    return graph.add_constant((1 / ROPE_BASE ** (np.arange(half) / half)).astype(np.float32), "inverse_frequencies")


def attention_extras(graph: Graph, toy: Toy, index: int, positions: str) -> dict[str, str]:
    extras = {}
    if toy.alibi:
        extras["slopes"] = graph.add_constant((0.5 ** np.arange(1, toy.heads + 1)).astype(np.float32))
    if toy.sinks:
        extras["sinks"] = graph.add_weight(Parameter((toy.heads,), "float32", f"layer{index}.sinks"))
    if toy.mask:  # hides every third key, on top of what the node hides itself
        keys = graph.add_node("range", [], size="total", dtype="float32")
        third = graph.add_node("cos", [graph.add_node("mul", [keys, graph.add_constant(np.float32(2 * np.pi / 3))])])
        near = graph.add_node("le", [third, graph.add_constant(np.float32(0.5))])
        rows = graph.add_node("reshape", [positions], shape=("batch", 1, "sequence", 1))
        places = graph.add_node("range", [], size="total")
        now = graph.add_node("le", [rows, places])
        old = graph.add_node("not", [now])
        never = graph.add_node("eq", [rows, places])
        visible = graph.add_node("or", [graph.add_node("and", [old, near]), never])
        extras["mask"] = visible
    return extras


def decoder(toy: Toy, name: str = "extend") -> Graph:
    """A decoder graph as capture and passes leave it."""
    graph = Graph(name)
    ids = graph.add_input("token_ids", "int32", ("batch", "sequence"))
    positions = graph.add_input("positions", "int32", ("batch", "sequence"))
    if toy.last_token:
        lengths = graph.add_input("lengths", "int32", ("batch",))
    if toy.cross:
        encoder_mask = graph.add_input("encoder_padding_mask", "bool", ("batch", "encoder_sequence"))
    table = Parameter((toy.vocabulary, toy.hidden), "float32", "embedding.embeddings")
    x = graph.add_node("embedding", [graph.add_weight(table), ids], layer="embedding")
    if toy.learned_positions:
        places = graph.add_weight(Parameter((CAPACITY, toy.hidden), "float32", "positions.embeddings"))
        x = graph.add_node("add", [x, graph.add_node("embedding", [places, positions])])
    value_dim = toy.value_dim or toy.head_dim
    for index in range(toy.layers):
        graph.slots[f"self.{index}"] = Slot("self", toy.kv_heads, toy.head_dim, value_dim)
        if toy.cross:
            graph.slots[f"cross.{index}"] = Slot("cross", toy.heads, toy.head_dim, toy.head_dim)
        normed = norm(graph, toy, x, f"layer{index}.norm")
        query, key, value = projections(graph, toy, normed, f"layer{index}.attention")
        if toy.rope:
            table_name = frequencies(graph, toy)
            query, key = (graph.add_node("rope", [part, positions, table_name], factor=toy.rope_factor) for part in (query, key))
        extras = attention_extras(graph, toy, index, positions)
        order = ("bias", "mask", "key_mask", "sinks", "slopes")
        window = toy.windows[index % len(toy.windows)]
        attrs: dict[str, Any] = {"scale": toy.head_dim**-0.5, "causal": toy.causal, "window": window, "softcap": toy.softcap}
        if toy.plain_cache:
            key, value = (
                graph.add_node("cache_write", [part, positions], slot=f"self.{index}", part=number)
                for number, part in enumerate((key, value))
            )
        else:
            attrs |= {"slot": f"self.{index}", "write": True}
        mixed = graph.add_node(
            "attention", [query, key, value, positions, *(extras.get(name, "") for name in order)], layer=f"layer{index}.attention", **attrs
        )
        x = graph.add_node("add", [x, projected(graph, mixed, f"layer{index}.out", toy.hidden, toy.bias)])
        if toy.cross:
            cross_query = linear(
                graph, norm(graph, toy, x, f"layer{index}.cross_norm"), f"layer{index}.cross.q", toy.heads * toy.head_dim, toy.bias
            )
            cross_query = graph.add_node("reshape", [cross_query], shape=("batch", "sequence", toy.heads, toy.head_dim))
            inputs = [cross_query, "", "", "", "", "", encoder_mask]
            mixed = graph.add_node("attention", inputs, layer=f"layer{index}.cross", slot=f"cross.{index}", scale=toy.head_dim**-0.5)
            x = graph.add_node("add", [x, projected(graph, mixed, f"layer{index}.cross.out", toy.hidden, toy.bias)])
        x = graph.add_node("add", [x, feed_forward(graph, toy, norm(graph, toy, x, f"layer{index}.mlp_norm"), f"layer{index}")])
    x = norm(graph, toy, x, "final_norm")
    if toy.last_token:
        x = graph.add_node("last_token", [x, lengths])
    if toy.tied:
        logits = graph.add_node("linear", [x, graph.add_weight(table.transpose((1, 0)))], layer="head")
    else:
        logits = linear(graph, x, "head", toy.vocabulary)
    if toy.final_softcap:
        cap = graph.add_constant(np.float32(toy.final_softcap))
        logits = graph.add_node("mul", [graph.add_node("tanh", [graph.add_node("div", [logits, cap])]), cap])
    graph.outputs["logits"] = logits
    verify(graph)
    return graph


def feed_forward(graph: Graph, toy: Toy, x: str, name: str) -> str:
    if not toy.experts:
        inner = linear(graph, x, f"{name}.up", 2 * toy.hidden, toy.bias)
        return linear(graph, graph.add_node(toy.activation, [inner]), f"{name}.down", toy.hidden, toy.bias)
    flat = graph.add_node("reshape", [x], shape=("batch*sequence", toy.hidden))
    mixed = experts(graph, flat, f"{name}.experts", count=toy.experts, taken=toy.taken, form=toy.experts_form)
    return graph.add_node("reshape", [mixed], shape=("batch", "sequence", toy.hidden))


def projected(graph: Graph, mixed: str, name: str, size: int, bias: bool) -> str:
    shape = graph.type_of(mixed).shape
    flat = graph.add_node("reshape", [mixed], shape=(*shape[:2], int(shape[2]) * int(shape[3])))
    return linear(graph, flat, name, size, bias)


def encoder(toy: Toy) -> Graph:
    """The encoder that goes with `decoder(Toy(cross=True))`: one layer, then every decoder layer's cross keys and values."""
    graph = Graph("encode")
    ids = graph.add_input("encoder_token_ids", "int32", ("batch", "encoder_sequence"))
    mask = graph.add_input("encoder_padding_mask", "bool", ("batch", "encoder_sequence"))
    table = Parameter((toy.vocabulary, toy.hidden), "float32", "embedding.embeddings")
    x = graph.add_node("embedding", [graph.add_weight(table), ids])
    every_head = Toy(hidden=toy.hidden, heads=toy.heads, kv_heads=toy.heads, head_dim=toy.head_dim, packed=toy.packed, bias=toy.bias)
    query, key, value = projections(graph, every_head, norm(graph, toy, x, "encoder.norm"), "encoder.attention")
    inputs = [query, key, value, "", "", "", mask]
    mixed = graph.add_node("attention", inputs, layer="encoder.attention", scale=toy.head_dim**-0.5)
    x = graph.add_node("add", [x, projected(graph, mixed, "encoder.out", toy.hidden, toy.bias)])
    graph.outputs["hidden"] = x
    for index in range(toy.layers):
        for part in ("key", "value"):
            flat = linear(graph, x, f"layer{index}.cross.{part}", toy.heads * toy.head_dim, toy.bias)
            graph.outputs[f"cross.{index}.{part}"] = graph.add_node(
                "reshape", [flat], shape=("batch", "encoder_sequence", toy.heads, toy.head_dim)
            )
    verify(graph)
    return graph


@dataclass
class Files:
    """Emitted files and a session on each."""

    directory: Path
    emitted: Emitted
    source: RandomSource
    graphs: dict[str, Graph]
    sessions: dict[str, ort.InferenceSession]

    def session(self, name: str = "extend") -> ort.InferenceSession:
        return self.sessions[name]


def write(directory: Path, *graphs: Graph, capacity: int = CAPACITY, **options: Any) -> Files:
    """Emit the graphs and open the files."""
    source = source_of(*graphs)
    emitted = emit({graph.name: graph for graph in graphs}, source, directory, EmitOptions(capacity, **options))
    return Files(
        directory,
        emitted,
        source,
        {graph.name: graph for graph in graphs},
        {s.name: open_session(directory / s.file) for s in emitted.signatures},
    )


def open_session(path: Path) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


class OnnxRunner:
    """Steps of the written decoder over capacity-sized buffers, past fed back from present."""

    def __init__(self, files: Files, batch: int, capacity: int = CAPACITY, extra: Mapping[str, Any] | None = None) -> None:
        self.session = files.session()
        self.wanted = {value.name for value in self.session.get_inputs()}
        self.lengths = np.zeros(batch, np.int64)
        self.extra = dict(extra or {})
        self.caches = {}
        for value in self.session.get_inputs():
            if value.name.startswith("past_key_values") and value.name not in self.extra:
                self.caches[value.name] = np.zeros((batch, value.shape[1], capacity, value.shape[3]), np.float32)

    def extend(self, tokens: Any, counts: Any) -> Any:
        """Append `tokens[b, :counts[b]]`; returns the logits output."""
        width = tokens.shape[1]
        past = int(self.lengths.max())
        total = past + width if width > 1 else int((self.lengths + counts).max())
        held = self.lengths + counts
        positions = self.lengths[:, None] + np.arange(width)
        feeds = {
            "input_ids": tokens.astype(np.int64),
            "attention_mask": (np.arange(total) < held[:, None]).astype(np.int64),
            "position_ids": positions.astype(np.int64),
            **self.caches,
            **self.extra,
        }
        names = [value.name for value in self.session.get_outputs()]
        results = dict(zip(names, self.session.run(names, {key: value for key, value in feeds.items() if key in self.wanted}), strict=True))
        for name in self.caches:
            self.caches[name] = results[name.replace("past_key_values", "present")]
        self.lengths = held
        return results["logits"]


class Reference:
    """The same steps by the interpreter."""

    def __init__(
        self, graph: Graph, source: RandomSource, batch: int, capacity: int = CAPACITY, cross: Mapping[str, Any] | None = None
    ) -> None:
        self.graph, self.source = graph, source
        self.caches = new_caches(graph, batch, capacity)
        self.lengths = np.zeros(batch, np.int64)
        self.extra: dict[str, Any] = {}
        for name, array in (cross or {}).items():
            slot, _, part = name.rpartition(".")
            self.caches[slot][("key", "value").index(part)] = array

    def extend(self, tokens: Any, counts: Any) -> Any:
        feeds = {
            "token_ids": tokens.astype(np.int32),
            "positions": (self.lengths[:, None] + np.arange(tokens.shape[1])).astype(np.int32),
            "lengths": np.asarray(counts, np.int32),
            **self.extra,
        }
        feeds = {name: array for name, array in feeds.items() if name in self.graph.inputs}
        self.lengths = self.lengths + counts
        return run(self.graph, feeds, self.source, self.caches)["logits"]


@dataclass
class Comparison:
    """Logits of the file and of the interpreter at every step: [step, batch, vocabulary]."""

    ours: Any
    expected: Any

    @property
    def difference(self) -> float:
        """The largest difference, in standard deviations of the expected logits."""
        return float(np.abs(self.ours - self.expected).max() / self.expected.std())


def compare(
    files: Files, prompts: tuple[int, ...] = (7, 3, 5), steps: int = 6, chunk: int = 0, graph: Graph | None = None, capacity: int = CAPACITY
) -> Comparison:
    """A ragged prefill (or chunks of a single row) and single steps of random tokens, by the file and by the interpreter (on `graph`)."""
    graph = graph or files.graphs["extend"]
    batch, counts, rng = len(prompts), np.array(prompts), np.random.default_rng(3)
    vocabulary = int(graph.type_of(graph.outputs["logits"]).shape[-1])
    tokens = rng.integers(0, vocabulary, (batch, max(prompts)))
    runners = (OnnxRunner(files, batch, capacity), Reference(graph, files.source, batch, capacity))
    pieces = [tokens[:, start : start + chunk] for start in range(0, tokens.shape[1], chunk)] if chunk else [tokens]
    logits: list[list[Any]] = [[], []]
    for piece in pieces:
        piece_counts = np.full(batch, piece.shape[1]) if chunk else counts
        for runner, seen in zip(runners, logits, strict=True):
            seen.append(runner.extend(piece, piece_counts)[:, -1])
    for _ in range(steps):
        following = rng.integers(0, vocabulary, (batch, 1))
        for runner, seen in zip(runners, logits, strict=True):
            seen.append(runner.extend(following, np.ones(batch, np.int64))[:, -1])
    return Comparison(np.stack(logits[0]), np.stack(logits[1]))


def op_counts(files: Files, name: str = "extend") -> dict[str, int]:
    """Operators of one file."""
    import onnx

    signature = next(s for s in files.emitted.signatures if s.name == name)
    counts: dict[str, int] = {}
    for node in onnx.load(str(files.directory / signature.file), load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts
