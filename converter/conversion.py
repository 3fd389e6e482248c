"""Convert: open, plan, capture, write, package, prove, publish. Each stage is a function; the directory appears whole or not at all."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from kexport import targets
from kexport.converter.artifact import Artifact, Summary
from kexport.converter.checks import check_finite
from kexport.converter.limits import Limits, choose_limits
from kexport.converter.options import ConvertOptions, make_options
from kexport.converter.original import Original, open_original
from kexport.converter.parity.attribution import LARGEST_MODEL, attribute_difference, rounding_explains
from kexport.converter.parity.cases import Sizes
from kexport.converter.parity.gate import Expected, ask_oracle, judge, library_versions, run_artifact
from kexport.converter.parity.oracle import LoadedOracle, Oracle, StreamedOracle
from kexport.converter.plan import Plan, check_resources, make_plan
from kexport.converter.rounding import RoundedWeights, round_in_place
from kexport.converter.sources import Source, open_source
from kexport.graphs.ir import Graph
from kexport.graphs.passes import optimise, run_passes
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.errors import ParityError
from kexport.runtime.contract.files import publish_directory, sha256_file
from kexport.runtime.contract.manifest import (
    FILE_NAME,
    Certificate,
    Dtype,
    File,
    Generation,
    Manifest,
    Memory,
    Producer,
    Rng,
    Tokenizer,
    VendorRuntime,
)  # fmt: skip
from kexport.runtime.contract.manifest import Source as SourceRecord
from kexport.runtime.contract.manifest_io import write_manifest
from kexport.runtime.contract.progress import Reporter, SilentReporter
from kexport.runtime.contract.version import __version__
from kexport.targets.base import EmitOptions, Emitted
from numpy.typing import NDArray

LIBRARIES = ("keras", "keras-hub", "tensorflow", "onnx-ir", "onnxruntime", "ai-edge-litert", "openvino", "openvino-tokenizers", "tokenizers", "numpy")
CARRIED_OVER = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md")
KIBIBYTE = 1024
RUNTIME_BYTES = 100_000_000  # Python, numpy and the engine's library, measured on an artifact of no size


def convert(source: Any, target: str = "onnx", output: str | Path = "OUT", *, reporter: Reporter | None = None, **given: Any) -> Artifact:
    """Convert a model into an artifact directory.

    Args:
        source: a preset id, `kaggle://...`, `hf://...`, a preset directory, a Hugging Face model directory, a `.keras` file, or a live
            keras_hub task, which is left as found.
        target: a target's name; `kexport list` shows them.
        output: the directory to make; it appears only when everything is written and proven.
        reporter: told about progress; silent by default.
        given: the command line's options by name: dtype, max_length, task, tokenizer, verify, keep_failed, trust_source, force.

    Raises:
        KexportError: every refusal and failure, with a code and a hint; see docs/errors.md.
    """
    options = make_options(target=target, **given)
    reporter = reporter or SilentReporter()
    seconds: dict[str, float] = {}
    with _timed(seconds, "open"):
        opened = open_source(source, task=options.task, trust_source=options.trust_source, tokenizer=options.tokenizer)
        plan = make_plan(opened, options)
        check_resources(plan, Path(output))
        for note in plan.notes:
            reporter.note(note)
    work = _Conversion(opened, options, plan, reporter, seconds)
    with publish_directory(Path(output), force=options.force, bytes_needed=plan.disk, keep_failed=options.keep_failed) as directory:
        manifest = work.run(directory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    written = sum(file.bytes for file in manifest.files)
    return Artifact(Path(output), manifest, Summary(seconds, written, peak), tuple(work.notes))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(time.perf_counter() - start, 2)


@dataclasses.dataclass(slots=True)
class _Conversion:
    """The state that the stages share."""

    source: Source
    options: ConvertOptions
    plan: Plan
    reporter: Reporter
    seconds: dict[str, float]
    notes: list[str] = dataclasses.field(default_factory=list)

    def run(self, directory: Path) -> Manifest:
        """All stages, in order."""
        with _timed(self.seconds, "load libraries and build"), self.reporter.stage("build the model"):
            original = open_original(self.source)
        with _timed(self.seconds, "capture"), self.reporter.stage("capture"):
            graphs = self._capture(original)
            limits = choose_limits(graphs, original.task, self.options)
        with _timed(self.seconds, "write"):
            emitted = self._emit(graphs, original, limits, directory)
        with _timed(self.seconds, "package"), self.reporter.stage("write tokenizer and manifest"):
            manifest = self._package(original, graphs, emitted, limits, directory)
        if self.plan.verify != "none":
            with _timed(self.seconds, "verify"):
                manifest = self._verify(original, graphs, manifest, directory)
        write_manifest(directory, manifest)
        return manifest

    def _capture(self, original: Original) -> dict[str, Graph]:
        from kexport.graphs.capture import capture

        captured = capture(original.task)
        self.notes += captured.notes
        for graph in captured.graphs.values():
            passes = optimise() if "logits" in graph.outputs else []
            for result in run_passes(graph, passes).values():
                self.notes += result.refusals
        return captured.graphs

    def _emit(self, graphs: Mapping[str, Graph], original: Original, limits: Limits, directory: Path) -> Emitted:
        total = stored_bytes(graphs, self.options.dtype)
        with self.reporter.stage("write weights", total=total, unit="bytes") as stage:

            def on_tensor(name: str, array: NDArray[Any]) -> None:
                check_finite(name, array)
                stage.advance(int(array.nbytes))

            options = EmitOptions(
                capacity=limits.capacity,
                stored_dtype=self.options.dtype,
                encoder_capacity=limits.encoder_capacity,
                prefill_buckets=self.options.prefill_buckets or (),
                package=self.options.package or "",
                on_tensor=on_tensor,
            )
            stored = self.options.dtype
            weights = original.weights if stored == "float32" else RoundedWeights(original.weights, stored)
            return targets.get(self.options.target).emit(graphs, weights, directory, options)

    def _package(self, original: Original, graphs: Mapping[str, Graph], emitted: Emitted, limits: Limits, directory: Path) -> Manifest:
        tokenizer = limits.in_tokenizer(self._tokenizer(original, directory))
        stop_ids = tokenizer.stop_token_ids if tokenizer is not None else ()
        runtimes = self._vendor_files(emitted, tokenizer, directory)
        self._carry_over(directory)
        return Manifest(
            producer=Producer(kexport=__version__, libraries=library_versions(LIBRARIES)),
            source=self._source_record(graphs),
            task=self.source.task,
            target=self.options.target,
            dtype=Dtype(stored=self.options.dtype),
            signatures=emitted.signatures,
            cache=limits.in_cache(emitted.cache),
            tokenizer=tokenizer,
            generation=self._generation(original.task, stop_ids if tokenizer is not None else None, emitted, limits),
            memory=_memory(emitted, limits),
            fusions=emitted.fusions,
            ops=emitted.ops,
            runtimes=runtimes,
            files=_file_records(directory, emitted.files),
        )

    def _source_record(self, graphs: Mapping[str, Graph]) -> SourceRecord:
        with self.reporter.stage("digest of the source"):
            record = self.source.record(self.source.weight_digest())
        count = sum(math.prod(parameter.shape) for parameter in parameters_of(graphs))
        return msgspec.structs.replace(record, parameter_count=record.parameter_count or count)

    def _tokenizer(self, original: Original, directory: Path) -> Tokenizer | None:
        from kexport.converter.tokenizers import export_tokenizer, resolve_stop_token_ids

        preprocessor = getattr(original.task, "preprocessor", None)
        if preprocessor is None or not self.options.tokenizer:
            return None
        return export_tokenizer(preprocessor, directory, stop_token_ids=resolve_stop_token_ids(original.task))

    def _vendor_files(self, emitted: Emitted, tokenizer: Tokenizer | None, directory: Path) -> tuple[VendorRuntime, ...]:
        special = tokenizer.special_tokens if tokenizer is not None else {}
        _, runtimes = targets.get(self.options.target).write_vendor_files(
            directory,
            emitted,
            stop_token_ids=tokenizer.stop_token_ids if tokenizer is not None else (),
            start_token_id=special.get("bos"),
            pad_token_id=special.get("pad"),
            has_tokenizer=tokenizer is not None,
            prompt_start=tokenizer.packers["prompt"].start if tokenizer is not None and "prompt" in tokenizer.packers else (),
        )
        return tuple(_with_tokenizer_remark(runtime, tokenizer, directory) for runtime in runtimes)

    def _carry_over(self, directory: Path) -> None:
        """The source's licence and model card travel with the weights."""
        for folder in {path.parent for path in self.source.files}:
            for name in CARRIED_OVER:
                if (folder / name).is_file() and not (directory / name).exists():
                    shutil.copyfile(folder / name, directory / name)

    def _generation(self, task: Any, stop_ids: tuple[int, ...] | None, emitted: Emitted, limits: Limits) -> Generation:
        import tensorflow as tf

        sampler = {"class_name": type(task.sampler).__name__, "config": _plain(task.sampler.get_config())}
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        return Generation(
            sampler=sampler,
            max_length=limits.max_length,
            stop_token_ids=stop_ids,
            vocabulary_size=emitted.geometry.vocabulary_size,
            rng=Rng(mode="xla" if tf.config.list_physical_devices("GPU") else "tf_cpu", threads=threads),
        )

    # ---- proof

    def _verify(self, original: Original, graphs: Mapping[str, Graph], manifest: Manifest, directory: Path) -> Manifest:
        write_manifest(directory, manifest)
        certificate = prove(self.source, original, manifest, directory, self.plan.verify, self.reporter, graphs)
        return msgspec.structs.replace(manifest, parity=certificate)


def prove(
    source: Source,
    original: Original,
    manifest: Manifest,
    directory: Path,
    depth: str,
    reporter: Reporter,
    graphs: Mapping[str, Graph] | None = None,
) -> Certificate:
    """The certificate of the artifact in `directory`.

    Raises:
        ParityError: it does not give the original's tokens; with `graphs` it says whether capture or target is wrong.
    """
    pad = (manifest.tokenizer.special_tokens.get("pad", 0) if manifest.tokenizer is not None else 0) or 0
    forbidden = {pad, *(manifest.generation.stop_token_ids or ())}
    sizes = Sizes(
        vocabulary=manifest.generation.vocabulary_size,
        capacity=manifest.cache.capacity,
        encoder_capacity=manifest.cache.encoder_capacity,
        parameters=manifest.source.parameter_count,
        seq2seq=manifest.task == "seq2seq-lm",
        forbidden=frozenset(forbidden),
    )
    stored = manifest.dtype.stored
    oracle: Oracle
    if depth == "stream" and not original.live:
        oracle = StreamedOracle(original.task, pad, RoundedWeights(original.weights, stored))
        answers = ask_oracle(oracle, sizes, with_texts=False, reporter=reporter)
    else:
        with reporter.stage("load the original"):
            task = original.task if original.live else source.load("float32")
        oracle = LoadedOracle(task, pad)
        with round_in_place(task, stored):
            answers = ask_oracle(oracle, sizes, with_texts=manifest.tokenizer is not None, reporter=reporter)
        del task
    results = run_artifact(directory, answers, pad, low_memory=depth == "stream", reporter=reporter)
    if graphs is None or sizes.parameters > LARGEST_MODEL:
        return judge(answers, results, oracle.description, oracle.steps)
    weights = RoundedWeights(original.weights, stored)

    def explain(answer: Expected, row: int, artifact: NDArray[Any]) -> str:
        assert answer.tokens is not None and answer.logits is not None
        return rounding_explains(graphs, weights, answer.case, row, answer.tokens, answer.logits, artifact, pad)

    try:
        return judge(answers, results, oracle.description, oracle.steps, explain)
    except ParityError as error:
        first = answers[0]
        assert first.tokens is not None and first.logits is not None
        cause = attribute_difference(graphs, weights, first.case, first.tokens, first.logits, pad)
        raise ParityError(error.code, f"{error.message}; {cause}", hint=error.hint) from error


def parameters_of(graphs: Mapping[str, Graph]) -> set[Parameter]:
    """Every parameter that the graphs read."""
    return {parameter for graph in graphs.values() for weight in graph.weights.values() for parameter in weight.parameters()}


def stored_bytes(graphs: Mapping[str, Graph], dtype: str) -> int:
    """Bytes of all weights as they will be stored, for the progress display."""
    size = item_size(dtype)
    return sum(math.prod(weight.shape) * size for graph in graphs.values() for weight in graph.weights.values())


def _with_tokenizer_remark(runtime: VendorRuntime, tokenizer: Tokenizer | None, directory: Path) -> VendorRuntime:
    """A vendor runtime's record with a word on its own tokenizer, where that reads the artifact's file differently."""
    if not runtime.accepted or tokenizer is None:
        return runtime
    from kexport.converter.tokenizers import vendor_tokenizer_difference

    start = tokenizer.packers["prompt"].start if "prompt" in tokenizer.packers else ()
    remark = vendor_tokenizer_difference(directory, tokenizer.fixture, runtime=runtime.name, prompt_start=start)
    return msgspec.structs.replace(runtime, reason="; ".join(part for part in (runtime.reason, remark) if part))


def _memory(emitted: Emitted, limits: Limits) -> Memory:
    weights = sum(file.bytes for file in emitted.files)
    at_capacity = emitted.cache.bytes_per_token * limits.capacity
    return Memory(
        weights=weights,
        cache_per_token=emitted.cache.bytes_per_token,
        cache_at_capacity=at_capacity,
        expected_peak=RUNTIME_BYTES + weights + at_capacity,
    )


def _plain(value: Any) -> Any:
    """A config as JSON values; what is none becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _file_records(directory: Path, known: tuple[File, ...]) -> tuple[File, ...]:
    """Every file of the artifact; digests that the writer made while writing are taken from it."""
    made = {file.path: file for file in known}
    records = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name != FILE_NAME:
            records.append(made.get(name) or File(path=name, bytes=path.stat().st_size, sha256=sha256_file(path)))
    return tuple(records)
