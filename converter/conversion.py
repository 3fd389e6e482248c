"""Convert: open, plan, capture, then for each target write, package, prove, publish. Each directory appears whole or not at all.

The source is opened, captured and asked for its tokens once, however many targets there are.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from kexport import targets
from kexport.converter.artifact import Artifact, Outcome, Summary
from kexport.converter.checks import check_finite, check_fix
from kexport.converter.forward import BACKBONE, CAUSAL, capture_forwards, forward_signatures
from kexport.converter.images import capture_image_graphs
from kexport.converter.limits import Limits, choose_limits
from kexport.converter.lora import LoraFile, adapter_name, read_lora_file
from kexport.converter.options import PACKAGES, ConvertOptions, make_options
from kexport.converter.original import Original, open_original
from kexport.converter.packaging import package, record_source
from kexport.converter.plan import Plan, check_resources, make_plan
from kexport.converter.proving import Prover, prove_adapters
from kexport.converter.rounding import RoundedWeights
from kexport.converter.sources import Source, open_source
from kexport.graphs.ir import Graph
from kexport.graphs.passes import BoundRows, optimise, optimise_encoder, run_passes
from kexport.runtime.contract import names as signatures
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.errors import KexportError, UsageError
from kexport.runtime.contract.files import publish_directory
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.contract.manifest_io import write_manifest
from kexport.runtime.contract.progress import Reporter, SilentReporter
from kexport.targets.base import EmitOptions, Emitted
from numpy.typing import NDArray

KIBIBYTE = 1024


def convert(source: Any, target: str = "onnx", output: str | Path = "OUT", *, reporter: Reporter | None = None, **given: Any) -> Artifact:
    """Convert a model into an artifact directory.

    Args:
        source: a preset id, `kaggle://...`, `hf://...`, a preset directory, a Hugging Face model directory, a `.keras` file, or a live
            keras_hub task, which is left as found.
        target: a target's name; `kexport list` shows them. For several at once see `convert_all`.
        output: the directory to make; it appears only when everything is written and proven.
        reporter: told about progress; silent by default.
        given: the command line's options by name: dtype, max_length, task, tokenizer, verify, keep_failed, trust_source, force, ...

    Raises:
        KexportError: every refusal and failure, with a code and a hint; see docs/errors.md.
    """
    names = make_options(target=target, **given).targets
    if len(names) > 1:
        raise UsageError("KX109", f"convert() makes one artifact, `{target}` names {len(names)} targets", hint="call convert_all()")
    (outcome,) = convert_all(source, target, output, reporter=reporter, **given)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.artifact is not None
    return outcome.artifact


def convert_all(
    source: Any, target: str = "all", output: str | Path = "OUT", *, reporter: Reporter | None = None, **given: Any
) -> list[Outcome]:
    """Convert a model for one target or for several, capturing it once.

    `target`: a name, names separated by commas, or `all`. With one the artifact is `output`; with several each is `output/<name>`.
    A target that fails does not stop the others: its outcome carries the error.

    Raises:
        KexportError: what concerns the source or the options, before any target is written.
    """
    options = make_options(target=target, **given)
    reporter = reporter or SilentReporter()
    seconds: dict[str, float] = {}
    with _timed(seconds, "open"):
        lora = {adapter_name(path): read_lora_file(path) for path in options.lora_files}
        opened = open_source(source, task=options.task, trust_source=options.trust_source, tokenizer=options.tokenizer)
        forward_signatures(opened.task, options)  # refuses what this task cannot have
        plan = make_plan(opened, options)
        check_resources(plan, Path(output), len(options.targets))
        for note in plan.notes:
            reporter.note(note)
    names = options.targets
    places = {name: Path(output) if len(names) == 1 else Path(output) / name for name in names}
    work = _Conversion(opened, options, plan, reporter, seconds, lora)
    return [work.make(name, places[name]) for name in names]


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(time.perf_counter() - start, 2)


@dataclass(frozen=True, slots=True)
class _Captured:
    """What all targets share."""

    original: Original
    graphs: dict[str, Graph]
    limits: Limits
    prover: Prover


@dataclass(slots=True)
class _Conversion:
    """One source on its way to its targets. `seconds`: of the stages they share."""

    source: Source
    options: ConvertOptions
    plan: Plan
    reporter: Reporter
    seconds: dict[str, float]
    lora: dict[str, LoraFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _captured: _Captured | None = None
    _source_record: Any = None
    _shared_error: KexportError | None = None

    def make(self, target: str, output: Path) -> Outcome:
        """One target's artifact, or its error. Only errors of our own are outcomes; anything else is a bug and goes on."""
        seconds: dict[str, float] = {}
        try:
            with publish_directory(
                output, force=self.options.force, bytes_needed=self.plan.disk, keep_failed=self.options.keep_failed
            ) as directory:
                manifest = self._fill(target, directory, seconds)
        except KexportError as error:
            return Outcome(target, error=error)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
        written = sum(file.bytes for file in manifest.files)
        summary = Summary({**self.seconds, **seconds}, written, peak)
        return Outcome(target, Artifact(output, manifest, summary, tuple(dict.fromkeys(self.notes))))

    def _fill(self, target: str, directory: Path, seconds: dict[str, float]) -> Manifest:
        captured = self._capture_once()
        with _timed(seconds, "write"):
            emitted = self._emit(target, captured, directory)
        with _timed(seconds, "package"), self.reporter.stage("write tokenizer and manifest"):
            manifest = package(
                self.source, self._source_record, captured.original, emitted, captured.limits, self.options, target, directory
            )
        if self.plan.verify != "none":
            with _timed(seconds, "verify"):
                write_manifest(directory, manifest)
                manifest = msgspec.structs.replace(manifest, parity=captured.prover.prove(manifest, directory))
                manifest = prove_adapters(captured.prover, manifest, directory)
        write_manifest(directory, manifest)
        return manifest

    def _capture_once(self) -> _Captured:
        if self._shared_error is not None:
            raise self._shared_error
        try:
            return self._captured or self._capture_now()
        except KexportError as error:
            self._shared_error = error
            raise

    def _capture_now(self) -> _Captured:
        with _timed(self.seconds, "load libraries and build"), self.reporter.stage("build the model"):
            original = open_original(self.source, self.lora, merge=self.options.lora_mode != "separate")
        with _timed(self.seconds, "capture"), self.reporter.stage("capture"):
            graphs = self._capture(original)
            limits = choose_limits(graphs, original.task, self.options)
            for graph in graphs.values():
                run_passes(graph, [BoundRows(limits.capacity)])
        with _timed(self.seconds, "digest of the source"), self.reporter.stage("digest of the source"):
            self._source_record = record_source(self.source, graphs)
        prover = Prover(self.source, original, self.plan.verify, self.reporter, graphs)
        self._captured = _Captured(original, graphs, limits, prover)
        return self._captured

    def _capture(self, original: Original) -> dict[str, Graph]:
        from kexport.graphs.capture import capture

        graphs: dict[str, Graph] = {}
        if self.source.task != BACKBONE:
            check_fix(original.task, wanted=self.options.upstream_fix)
            captured = capture(original.task, hidden_states="hidden_states" in (self.options.signatures or ()), fixed=self.options.upstream_fix)
            graphs |= captured.graphs
            self.notes += captured.notes
        for graph in graphs.values():
            passes = optimise() if "logits" in graph.outputs else optimise_encoder()
            for result in run_passes(graph, passes).values():
                self.notes += result.refusals
        if self.source.task == CAUSAL:
            images, notes = capture_image_graphs(original.task, graphs[signatures.EXTEND], self.options)
            graphs |= images
            self.notes += notes
        forwards, notes = capture_forwards(original.task, forward_signatures(self.source.task, self.options))
        self.notes += notes
        return graphs | forwards

    def _emit(self, target: str, captured: _Captured, directory: Path) -> Emitted:
        total = stored_bytes(captured.graphs, self.options.dtype)
        with self.reporter.stage(f"write weights for {target}", total=total, unit="bytes") as stage:

            def on_tensor(name: str, array: NDArray[Any]) -> None:
                check_finite(name, array)
                stage.advance(int(array.nbytes))

            options = EmitOptions(
                capacity=captured.limits.capacity,
                stored_dtype=self.options.dtype,
                encoder_capacity=captured.limits.encoder_capacity,
                prefill_buckets=self.options.prefill_buckets or (),
                package=self.options.package or "",
                on_tensor=on_tensor,
                replaceable=_replaceable(captured.original),
            )
            weights = captured.original.weights
            if self.options.dtype != "float32":
                weights = RoundedWeights(weights, self.options.dtype)
            return targets.get(target).emit(self._graphs_for(target, captured), weights, directory, options)

    def _graphs_for(self, target: str, captured: _Captured) -> dict[str, Graph]:
        """All graphs, or for a package whose runtime calls the steps of a text model only those for texts alone."""
        if target not in PACKAGES or self.options.package != "litertlm" or signatures.VISION not in captured.graphs:
            return captured.graphs
        self.notes.append(f"{target}: converted for texts alone; LiteRT-LM would call none of the signatures for images")
        return {name: graph for name, graph in captured.graphs.items() if name not in signatures.IMAGES}


def _replaceable(original: Original) -> frozenset[str]:
    """The parameters that adapters change at run time."""
    return frozenset(name for adapter in original.separate_adapters for name in adapter.updates)


def stored_bytes(graphs: Mapping[str, Graph], dtype: str) -> int:
    """Bytes of all weights as they will be stored, for the progress display."""
    size = item_size(dtype)
    return sum(math.prod(weight.shape) * size for graph in graphs.values() for weight in graph.weights.values())
