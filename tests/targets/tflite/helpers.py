"""Emitted files, the runtime's engine on them, and the steps of the vendor's reference interpreter, with and without XNNPACK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.engines.base import Engine, open_engine
from kexport.runtime.native_output import captured_stderr
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.tflite import emit

from tests.targets.onnx.toys import source_of

CAPACITY = 40
BUCKETS = (4, 8)


@dataclass
class Files:
    """What `emit` wrote, of which graphs and weights."""

    directory: Path
    emitted: Emitted
    graphs: dict[str, Graph]
    source: Any

    @property
    def path(self) -> Path:
        return self.directory / "model.tflite"

    @property
    def manifest(self) -> Manifest:
        """A manifest with the records that emission returned."""
        return Manifest(
            producer=Producer(kexport="test"),
            source=Source(handle="toy", class_name="Toy"),
            task="seq2seq-lm" if "encode" in self.graphs else "causal-lm",
            target="tflite",
            signatures=self.emitted.signatures,
            cache=self.emitted.cache,
            files=self.emitted.files,
        )


def write(directory: Path, graphs: Mapping[str, Graph] | Graph, source: WeightSource | None = None, **options: Any) -> Files:
    """Emit graphs with small buckets."""
    graphs = {graphs.name: graphs} if isinstance(graphs, Graph) else dict(graphs)
    source = source or source_of(*graphs.values())
    settings = {"capacity": CAPACITY, "prefill_buckets": BUCKETS} | options
    return Files(directory, emit(graphs, source, directory, EmitOptions(**settings)), graphs, source)


@contextmanager
def opened(files: Files, **options: Any) -> Iterator[Engine]:
    """The runtime's engine on the files."""
    with open_engine(files.directory, files.manifest, threads=1, **options) as engine:
        yield engine


class Steps:
    """The file in the vendor's interpreter: one row, caches copied in and out."""

    def __init__(self, files: Files, *, xnnpack: bool) -> None:
        kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with captured_stderr():
            self.interpreter = Interpreter(str(files.path), num_threads=1, experimental_op_resolver_type=kind)
            self.runners = {name: self.interpreter.get_signature_runner(name) for name in self.interpreter.get_signature_list()}
        details = self.runners["decode"].get_input_details()
        self.caches = {name: np.zeros(detail["shape"], np.float32) for name, detail in details.items() if name.startswith("kv_cache")}
        self.extra: dict[str, Any] = {}
        self.held = 0

    def run(self, name: str, tokens: Any) -> Any:
        """Call a signature with tokens [n] at the positions that follow."""
        runner = self.runners[name]
        feeds = {"tokens": np.asarray(tokens, np.int32)[None], "input_pos": np.arange(self.held, self.held + len(tokens), dtype=np.int32)}
        feeds |= self.caches | self.extra
        outputs = runner(**{key: feeds[key] for key in runner.get_input_details()})
        self.caches |= {key: outputs[key] for key in self.caches if key in outputs}
        return outputs.get("logits")

    def extend(self, tokens: Any, decode: str = "decode") -> Any:
        """Append tokens [n]: a padded prefill where there are several, and the last one by `decode`. Logits [vocabulary]."""
        tokens = np.asarray(tokens)
        if len(tokens) > 1:
            bucket = min(
                int(name.split("_")[1])
                for name in self.runners
                if name.startswith("prefill") and int(name.split("_")[1]) >= len(tokens) - 1
            )
            self.run(f"prefill_{bucket}", np.pad(tokens[:-1], (0, bucket - len(tokens) + 1)))
            self.held += len(tokens) - 1
        logits = self.run(decode, tokens[-1:])
        self.held += 1
        return logits[0, -1]
