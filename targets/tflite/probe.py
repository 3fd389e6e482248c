"""A bundle with a tokenizer and the smallest model there can be: for asking LiteRT-LM how it reads a text, without the real weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.weights import Parameter
from kexport.runtime.contract import names
from kexport.targets.base import EmitOptions
from kexport.targets.tflite.emit import MODEL_FILE, emit
from kexport.targets.tflite.litertlm import llm_metadata, write_bundle
from numpy.typing import NDArray

WIDTH = 4
CAPACITY = 16
SLOT = "self.0"


class _Zeros:
    """A weight source of zeros."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def read(self, name: str) -> NDArray[Any]:
        return np.zeros(self._shapes[name], np.float32)


def write_probe(path: Path, tokenizer: Path, vocabulary_size: int) -> None:
    """Write the bundle `path` around a tokenizer file of so many tokens."""
    table = Parameter((vocabulary_size, WIDTH), "float32", "table")
    graph = Graph(names.EXTEND, slots={SLOT: Slot("self", 1, WIDTH, WIDTH)})
    ids, positions = (graph.add_input(name, "int32", ("batch", "sequence")) for name in ("token_ids", "positions"))
    x = graph.add_node("embedding", [graph.add_weight(table), ids])
    heads = graph.add_node("reshape", [x], shape=("batch", "sequence", 1, WIDTH))
    mixed = graph.add_node("attention", [heads, heads, heads, positions], scale=1.0, slot=SLOT, write=True, causal=True)
    flat = graph.add_node("reshape", [mixed], shape=("batch", "sequence", WIDTH))
    graph.outputs[names.LOGITS] = graph.add_node("linear", [flat, graph.add_weight(table.transpose((1, 0)))])
    with tempfile.TemporaryDirectory(prefix="kexport-") as temporary:
        options = EmitOptions(capacity=CAPACITY, prefill_buckets=(CAPACITY,))
        emit({names.EXTEND: graph}, _Zeros({table.name: table.shape}), Path(temporary), options)
        metadata = llm_metadata(start_token_ids=(), stop_token_ids=(0,), capacity=CAPACITY)
        write_bundle(path, Path(temporary) / MODEL_FILE, tokenizer, metadata)
