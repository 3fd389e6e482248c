"""Hand-built graphs with states, a reference that feeds every row by itself, and the files of each target with the engine on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Slot, State
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.engines.base import Engine, open_engine
from kexport.targets import get
from kexport.targets.base import EmitOptions, Emitted

from tests.targets.onnx.toys import RandomSource, Toy, linear, norm, projected, projections, source_of, split

CAPACITY = 40
CHUNK = 6
HIDDEN, HEADS, KEY, VALUE, VOCABULARY = 32, 2, 8, 4, 61
KEPT = 3  # tokens that the convolution looks back
TOY = Toy(hidden=HIDDEN, heads=4, kv_heads=2, head_dim=16, vocabulary=VOCABULARY)
TARGETS = ("onnx", "openvino", "tflite", "savedmodel")


def convolution(graph: Graph, x: str, index: int) -> str:
    """A causal convolution over each channel, as sums of delays."""
    width = int(graph.type_of(x).shape[-1])
    past = graph.add_state(f"convolution.{index}", State("convolution", (KEPT, width)))
    total = ""
    for steps in range(KEPT + 1):
        token = graph.add_node("delay", [x, past], steps=steps) if steps else x
        kernel = graph.add_weight(Parameter((width,), "float32", f"layer{index}.convolution.{steps}"))
        term = graph.add_node("mul", [token, kernel])
        total = graph.add_node("add", [total, term]) if total else term
    graph.outputs[f"convolution.{index}"] = graph.add_node("keep_last", [x, past])
    return graph.add_node("silu", [total])


def token_shift(graph: Graph, x: str, index: int) -> str:
    """Half a token and half the one before it."""
    width = int(graph.type_of(x).shape[-1])
    past = graph.add_state(f"convolution.{index}", State("convolution", (1, width)))
    graph.outputs[f"convolution.{index}"] = graph.add_node("keep_last", [x, past])
    both = graph.add_node("add", [x, graph.add_node("delay", [x, past], steps=1)])
    return graph.add_node("mul", [both, graph.add_constant(np.float32(0.5))])


def heads_of(graph: Graph, flat: str, size: int) -> str:
    return graph.add_node("reshape", [flat], shape=("batch", "sequence", HEADS, size))


def unit(graph: Graph, x: str) -> str:
    """x at length 1."""
    squares = graph.add_node("reduce_sum", [graph.add_node("mul", [x, x])], axes=(3,), keepdims=True)
    return graph.add_node("mul", [x, graph.add_node("rsqrt", [graph.add_node("add", [squares, graph.add_constant(np.float32(1e-6))])])])


def delta_layer(graph: Graph, x: str, index: int, *, channels: int, shifted: bool) -> str:
    """norm -> convolution or token shift -> delta rule -> projection, with the residual."""
    name = f"layer{index}"
    normed = norm(graph, TOY, x, f"{name}.norm")
    if shifted:
        mixed = linear(graph, token_shift(graph, normed, index), f"{name}.qkv", HEADS * (2 * KEY + VALUE))
    else:
        mixed = convolution(graph, linear(graph, normed, f"{name}.qkv", HEADS * (2 * KEY + VALUE)), index)
    query, key, value = split(graph, mixed, (HEADS * KEY, HEADS * KEY, HEADS * VALUE))
    query, key, value = heads_of(graph, query, KEY), unit(graph, heads_of(graph, key, KEY)), heads_of(graph, value, VALUE)
    beta = graph.add_node("sigmoid", [heads_of(graph, linear(graph, normed, f"{name}.beta", HEADS), 1)])
    decay = graph.add_node("neg", [graph.add_node("softplus", [heads_of(graph, linear(graph, normed, f"{name}.decay", HEADS * channels), channels)])])
    erase = graph.add_node("neg", [graph.add_node("mul", [graph.add_node("mul", [beta, graph.add_node("exp", [decay])]), key])])
    state = graph.add_state(f"recurrent.{index}", State("recurrent", (HEADS, KEY, VALUE)))
    inputs = [query, key, graph.add_node("mul", [beta, value]), decay, erase, key, state]
    output, new = graph.add_nodes("delta_rule", inputs, 2, layer=f"{name}.delta", chunk=CHUNK)
    graph.outputs[f"recurrent.{index}"] = new
    return graph.add_node("add", [x, projected(graph, output, f"{name}.out", HIDDEN, bias=False)])


def attention_layer(graph: Graph, x: str, index: int) -> str:
    """Attention over a KV cache, with the residual."""
    graph.slots["self.0"] = Slot("self", TOY.kv_heads, TOY.head_dim, TOY.head_dim)
    query, key, value = projections(graph, TOY, norm(graph, TOY, x, f"layer{index}.norm"), f"layer{index}.attention")
    table = graph.add_constant((1 / 10000.0 ** (np.arange(8) / 8)).astype(np.float32), "inverse_frequencies")
    query, key = (graph.add_node("rope", [part, "positions", table]) for part in (query, key))
    attrs: dict[str, Any] = {"scale": TOY.head_dim**-0.5, "causal": True, "slot": "self.0", "write": True}
    mixed = graph.add_node("attention", [query, key, value, "positions"], layer=f"layer{index}.attention", **attrs)
    return graph.add_node("add", [x, projected(graph, mixed, f"layer{index}.out", HIDDEN, bias=False)])


def begun(*, positions: bool) -> tuple[Graph, str]:
    graph = Graph("extend")
    ids = graph.add_input("token_ids", "int32", ("batch", "sequence"))
    if positions:
        graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.add_input("lengths", "int32", ("batch",))
    table = graph.add_weight(Parameter((VOCABULARY, HIDDEN), "float32", "embedding.embeddings"))
    return graph, graph.add_node("embedding", [table, ids], layer="embedding")


def finished(graph: Graph, x: str) -> Graph:
    last = graph.add_node("last_token", [norm(graph, TOY, x, "final_norm"), "lengths"])
    graph.outputs["logits"] = linear(graph, last, "head", VOCABULARY)
    verify(graph)
    return graph


def hybrid() -> Graph:
    """Convolution and delta rule with one decay a head, attention, and the first once more."""
    graph, x = begun(positions=True)
    x = delta_layer(graph, x, 0, channels=1, shifted=False)
    x = attention_layer(graph, x, 1)
    return finished(graph, delta_layer(graph, x, 2, channels=1, shifted=False))


def states_only() -> Graph:
    """Token shifts and delta rules with a decay for every channel; no KV cache, no positions."""
    graph, x = begun(positions=False)
    for index in range(2):
        x = delta_layer(graph, x, index, channels=KEY, shifted=True)
    return finished(graph, x)


GRAPHS = {"hybrid": hybrid, "states only": states_only}


@dataclass
class Files:
    """What a target wrote."""

    target: str
    directory: Path
    graph: Graph
    source: RandomSource
    emitted: Emitted = field(repr=False)

    @property
    def manifest(self) -> Manifest:
        """A manifest with the records that emission returned."""
        return Manifest(
            producer=Producer(kexport="test"),
            source=Source(handle="toy", class_name="Toy"),
            task="causal-lm",
            target=self.target,
            signatures=self.emitted.signatures,
            cache=self.emitted.cache,
            fusions=self.emitted.fusions,
            files=self.emitted.files,
        )

    def open(self) -> Engine:
        """The runtime's engine on the files."""
        return open_engine(self.directory, self.manifest, threads=None if self.target == "savedmodel" else 1)


def write(target: str, name: str, directory: Path) -> Files:
    """Emit a graph with random weights."""
    graph = GRAPHS[name]()
    source = source_of(graph)
    options = EmitOptions(CAPACITY, prefill_buckets=(2, 4, 16) if target == "tflite" else ())
    return Files(target, directory, graph, source, get(target).emit({"extend": graph}, source, directory, options))


class Rows:
    """The interpreter on every row by itself, one token after the other."""

    def __init__(self, files: Files, batch: int) -> None:
        self.graph, self.source = files.graph, files.source
        self.lengths = [0] * batch
        self.caches = [new_caches(self.graph, 1, CAPACITY) for _ in range(batch)]

    def extend(self, tokens: Any, counts: Any) -> Any:
        """Logits [batch, vocabulary] of each row's last token; zeros where a row has none."""
        logits = np.zeros((len(self.caches), VOCABULARY), np.float32)
        for row, count in enumerate(np.asarray(counts).tolist()):
            for token in tokens[row, :count]:
                feeds = {"token_ids": [[token]], "positions": [[self.lengths[row]]], "lengths": [1]}
                feeds = {name: np.array(value, np.int32) for name, value in feeds.items() if name in self.graph.inputs}
                logits[row] = run(self.graph, feeds, self.source, self.caches[row])["logits"][0, 0]
                self.lengths[row] += 1
        return logits

    def reorder(self, rows: Any) -> None:
        """Row b continues row `rows[b]`."""
        self.caches = [{name: [part.copy() for part in parts] for name, parts in self.caches[row].items()} for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
