"""A decode step of a mixture of experts: our form against every expert for every token, alternating in one process.

    python benchmarks/measure_experts.py --target onnx --experts 64 --taken 4 --layers 4 --hidden 512 --intermediate 1024

Both sides are the same decoder with random weights, written by the same target; the dense one has `experts` taken apart into plain ops. Medians
of steps, their ratio, and the bytes of weights that the artifact's own record says a step reads. The chosen experts change from step to step.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import click
import numpy as np
from kexport import targets
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.passes.decompose import DECOMPOSITIONS, decompose
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.engines.base import open_engine
from kexport.targets.base import EmitOptions

VOCABULARY, CAPACITY, HEADS, HEAD_DIM = 512, 128, 4, 32
WARM_UP = 5
MILLISECONDS, MEGABYTE = 1e3, 1e6
OURS, DENSE = "ours", "dense"


class RandomWeights:
    """Numbers from names."""

    def __init__(self, graph: Graph) -> None:
        self.shapes = {one.name: one.shape for weight in graph.weights.values() for one in weight.parameters()}

    def read(self, name: str) -> Any:
        """Normal numbers, small enough for the sums to stay near 1."""
        shape = self.shapes[name]
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        return draw * np.float32(shape[-2] ** -0.5 if len(shape) > 1 else 1)


def decoder(layers: int, hidden: int, intermediate: int, experts: int, taken: int) -> Graph:
    """A decoder as capture leaves it."""
    graph = Graph("extend")
    ids, positions = (graph.add_input(name, "int32", ("batch", "sequence")) for name in ("token_ids", "positions"))
    lengths = graph.add_input("lengths", "int32", ("batch",))

    def weight(name: str, *shape: int) -> str:
        return graph.add_weight(Parameter(shape, "float32", name))

    def linear(x: str, name: str, width: int) -> str:
        return graph.add_node("linear", [x, weight(name, int(graph.type_of(x).shape[-1]), width)])

    def normed(x: str, name: str) -> str:
        return graph.add_node("rms_norm", [x, weight(name, hidden)], epsilon=1e-6)

    x = graph.add_node("embedding", [weight("embedding", VOCABULARY, hidden), ids])
    for index in range(layers):
        graph.slots[f"self.{index}"] = Slot("self", HEADS, HEAD_DIM, HEAD_DIM)
        inner = normed(x, f"norm{index}")
        parts = [
            graph.add_node("reshape", [linear(inner, f"{part}{index}", HEADS * HEAD_DIM)], shape=("batch", "sequence", HEADS, HEAD_DIM))
            for part in ("query", "key", "value")
        ]
        mixed = graph.add_node(
            "attention", [*parts, positions], layer=f"layer{index}", scale=HEAD_DIM**-0.5, causal=True, slot=f"self.{index}", write=True
        )
        flat = graph.add_node("reshape", [mixed], shape=("batch", "sequence", HEADS * HEAD_DIM))
        x = graph.add_node("add", [x, linear(flat, f"out{index}", hidden)])
        rows = graph.add_node("reshape", [normed(x, f"mlp_norm{index}")], shape=("batch*sequence", hidden))
        best, chosen = graph.add_nodes("topk", [graph.add_node("softmax", [linear(rows, f"router{index}", experts)])], 2, k=taken)
        shares = graph.add_node("div", [best, graph.add_node("reduce_sum", [best], axes=(1,), keepdims=True)])
        gate, up = (weight(f"{part}{index}", experts, hidden, intermediate) for part in ("gate", "up"))
        matrices = [gate, up, weight(f"down{index}", experts, intermediate, hidden)]
        mixture = graph.add_node("experts", [rows, chosen, shares, *matrices], layer=f"layer{index}/experts", activation="silu")
        x = graph.add_node("add", [x, graph.add_node("reshape", [mixture], shape=("batch", "sequence", hidden))])
    last = graph.add_node("last_token", [normed(x, "norm"), lengths])
    graph.outputs["logits"] = linear(last, "head", VOCABULARY)
    return graph


def dense(graph: Graph) -> Graph:
    """The same with every expert for every token, as plain ops."""
    plain = graph.copy()
    decompose(plain, keep=set(DECOMPOSITIONS) - {"experts"})
    return plain


def written(graph: Graph, target: str, directory: Path, stored: str) -> Manifest:
    """The graph as files, with the records that an engine needs."""
    directory.mkdir()
    emitted = targets.get(target).emit({"extend": graph}, RandomWeights(graph), directory, EmitOptions(CAPACITY, stored_dtype=stored))
    return Manifest(
        producer=Producer(kexport="benchmark"),
        source=Source(handle="random", class_name="Mixture"),
        task="causal-lm",
        target=target,
        signatures=emitted.signatures,
        cache=emitted.cache,
        experts=emitted.experts,
        files=emitted.files,
    )


def measured(places: dict[str, tuple[Path, Manifest]], steps: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds of each step, the two sides in turn, each over a row of its own with the same tokens."""
    times: dict[str, list[float]] = {side: [] for side in places}
    engines = {side: open_engine(directory, manifest, threads=threads) for side, (directory, manifest) in places.items()}
    caches = {side: engine.new_cache(1, CAPACITY) for side, engine in engines.items()}
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, steps + WARM_UP + 1)
    for step, token in enumerate(tokens):
        logits = {}
        for side in sorted(engines, reverse=bool(step % 2)):
            start = time.perf_counter()
            logits[side] = np.asarray(engines[side].extend(caches[side], np.array([[token]])))
            if step > WARM_UP:
                times[side].append((time.perf_counter() - start) * MILLISECONDS)
        if not np.allclose(logits[OURS], logits[DENSE], rtol=1e-3, atol=1e-3):
            raise click.ClickException(f"the two sides differ at step {step}: {np.abs(logits[OURS] - logits[DENSE]).max():.2g}")
    for engine in engines.values():
        engine.close()
    return times


def weight_megabytes(manifest: Manifest) -> float:
    """Megabytes of weights that a step reads, by the artifact's record."""
    step = manifest.signature("decode") or manifest.signature("extend")
    assert step is not None
    return step.weight_bytes / MEGABYTE


@click.command(help=__doc__)
@click.option("--target", type=click.Choice(targets.known()), required=True)
@click.option("--experts", default=64, show_default=True)
@click.option("--taken", default=4, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--hidden", default=512, show_default=True)
@click.option("--intermediate", default=1024, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--dtype", "stored", default="float32", show_default=True)
def main(target: str, experts: int, taken: int, layers: int, hidden: int, intermediate: int, steps: int, threads: int, stored: str) -> None:
    """Write both sides, measure them in turn, print the figures as JSON."""
    if steps + WARM_UP + 1 > CAPACITY:
        raise click.UsageError(f"--steps is at most {CAPACITY - WARM_UP - 1}")
    graph = decoder(layers, hidden, intermediate, experts, taken)
    work = Path(tempfile.mkdtemp(prefix="experts-"))
    try:
        sides = {OURS: graph, DENSE: dense(graph)}
        places = {side: (work / side, written(one, target, work / side, stored)) for side, one in sides.items()}
        times = measured(places, steps, threads)
        medians = {side: statistics.median(values) for side, values in times.items()}
        megabytes = {side: weight_megabytes(manifest) for side, (_, manifest) in places.items()}
        document = {
            "target": target,
            "form": places[OURS][1].experts[0].form,
            "experts": f"{taken} of {experts}",
            "ms": {side: round(value, 3) for side, value in medians.items()},
            "dense/ours": round(medians[DENSE] / medians[OURS], 2),
            "MB a step reads": {side: round(value, 1) for side, value in megabytes.items()},
            "share of bytes": round(megabytes[OURS] / megabytes[DENSE], 3),
        }
        json.dump(document, sys.stdout, indent=1)
        print()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
