"""Hand-built graphs written as OpenVINO files, and the ways to run them: the runtime's engine, OpenVINO itself, the interpreter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from kexport.graphs.ir import Graph
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.engines.base import Engine, open_engine
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.openvino import emit

from tests.targets.onnx.toys import CAPACITY, RandomSource, Reference, source_of

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


@dataclass
class Files:
    """Emitted files."""

    directory: Path
    emitted: Emitted
    source: RandomSource
    graphs: dict[str, Graph]

    def open(self, **options: Any) -> Engine:
        """The runtime's engine on the files."""
        return open_engine(self.directory, manifest_of(self), **{"threads": 1, **options})

    def model(self, name: str = "extend") -> ov.Model:
        """The file as OpenVINO reads it."""
        signature = next(s for s in self.emitted.signatures if s.name == name)
        return ov.Core().read_model(self.directory / signature.file, self.directory / signature.data if signature.data else "")

    def reference(self, batch: int, **options: Any) -> Reference:
        """The interpreter on the same graph."""
        return Reference(self.graphs["extend"], self.source, batch, **options)


def write(directory: Path, *graphs: Graph, capacity: int = CAPACITY, source: Any = None, **options: Any) -> Files:
    """Emit the graphs with random weights."""
    source = source or source_of(*graphs)
    emitted = emit({graph.name: graph for graph in graphs}, source, directory, EmitOptions(capacity, **options))
    return Files(directory, emitted, source, {graph.name: graph for graph in graphs})


def manifest_of(files: Files) -> Manifest:
    """A manifest with the records that emission returned."""
    return Manifest(
        producer=Producer(kexport="test"),
        source=Source(handle="toy", class_name="Toy"),
        task="seq2seq-lm" if "encode" in files.graphs else "causal-lm",
        target="openvino",
        signatures=files.emitted.signatures,
        cache=files.emitted.cache,
        files=files.emitted.files,
    )


def compare(
    files: Files, prompts: tuple[int, ...] = (7, 3, 5), steps: int = 6, chunk: int = 0, graph: Graph | None = None, capacity: int = CAPACITY
) -> float:
    """A ragged prefill (or chunks of equally long rows) and single steps of random tokens, by the engine and by the interpreter (on `graph`):
    the largest difference of logits, in standard deviations of the expected ones."""
    graph = graph or files.graphs["extend"]
    batch, rng = len(prompts), np.random.default_rng(3)
    reference = Reference(graph, files.source, batch, capacity)
    vocabulary = int(graph.type_of(graph.outputs["logits"]).shape[-1])
    tokens = rng.integers(0, vocabulary, (batch, max(prompts)))
    calls = [(tokens, np.array(prompts))]
    if chunk:
        calls = [(part, np.full(batch, part.shape[1])) for part in np.split(tokens, range(chunk, tokens.shape[1], chunk), axis=1)]
    calls += [(rng.integers(0, vocabulary, (batch, 1)), np.ones(batch, np.int64)) for _ in range(steps)]
    with files.open() as engine:
        cache = engine.new_cache(batch, capacity)
        ours = np.stack([engine.extend(cache, part, counts) for part, counts in calls])
    expected = np.stack([last_of(reference.extend(part, counts), counts) for part, counts in calls])
    return float(np.abs(ours - expected).max() / expected.std())


def last_of(logits: Any, counts: Any) -> Any:
    """Each row's last real position of [batch, 1 or sequence, vocabulary]."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[np.arange(len(counts)), np.asarray(counts) - 1]


def operators(files: Files, name: str = "extend") -> Counter[str]:
    """Operators of one file."""
    return Counter(node.get_type_name() for node in files.model(name).get_ordered_ops())


def kernels(files: Files, name: str = "extend") -> Counter[str]:
    """What the CPU plugin made of the file."""
    compiled = ov.Core().compile_model(files.model(name), "CPU", EXACT)
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"]
        found[str(getattr(kind, "value", kind))] += 1
    return found
