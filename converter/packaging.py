"""The stage after writing: tokenizer, vendors' files, what travels with the source, and the manifest."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from kexport import targets
from kexport.converter.images import image_record, prove_replacement
from kexport.converter.limits import Limits
from kexport.converter.lora.records import adapter_records
from kexport.converter.options import ConvertOptions
from kexport.converter.original import Original
from kexport.converter.parity.gate import library_versions
from kexport.converter.parity.oracle import rng_mode
from kexport.converter.sources import Source
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Parameter
from kexport.runtime.contract import manifest as records
from kexport.runtime.contract import names
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.version import __version__
from kexport.runtime.prompt_forms import FORMS
from kexport.targets.base import Emitted

LIBRARIES = (
    "keras", "keras-hub", "tensorflow", "onnx-ir", "onnxruntime", "openvino", "openvino-tokenizers", "ai-edge-litert", "tokenizers", "numpy",
)  # fmt: skip
CARRIED_OVER = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md")
CHAT_FILE = "chat_template.jinja"
RUNTIME_BYTES = 100_000_000  # Python, numpy and the engine's library, measured on an artifact of no size


def package(
    source: Source,
    source_record: records.Source,
    original: Original,
    emitted: Emitted,
    limits: Limits,
    options: ConvertOptions,
    target: str,
    directory: Path,
) -> records.Manifest:
    """Complete the artifact in `directory`; returns its manifest, still without a certificate.

    Raises:
        UnsupportedError: the tokenizer cannot be exported equal.
    """
    tokenizer = _with_chat(source, _bounded(original.task, limits, _export_tokenizer(original, options, directory)), directory)
    images = image_record(original.task, text_only=names.VISION not in {s.name for s in emitted.signatures}) if source.task == "causal-lm" else None
    if images is not None and images.replacement and tokenizer is not None:
        prove_replacement(original.task.preprocessor, directory, tokenizer, images)
    runtimes = _write_vendor_files(target, emitted, tokenizer, directory) if source.task != "backbone" else ()
    _carry_over(source, directory)
    return records.Manifest(
        producer=records.Producer(kexport=__version__, libraries=library_versions(LIBRARIES)),
        source=source_record,
        task=source.task,
        target=target,
        dtype=records.Dtype(stored=options.dtype),
        signatures=emitted.signatures,
        cache=limits.in_cache(emitted.cache),
        tokenizer=tokenizer,
        images=images,
        generation=_generation(original.task, tokenizer, emitted, limits, fixed=options.upstream_fix) if source.task != "backbone" else _no_generation(original.task),
        memory=_memory(emitted, limits),
        adapters=adapter_records(original.adapters, emitted, directory),
        fusions=emitted.fusions,
        experts=emitted.experts,
        ops=emitted.ops,
        runtimes=runtimes,
        files=_file_records(directory, emitted.files),
    )


def record_source(source: Source, graphs: Mapping[str, Graph]) -> records.Source:
    """The source in the manifest's words, with the digest of its weight files. Reads every byte of them."""
    record = source.record(source.weight_digest())
    parameters = {parameter for graph in graphs.values() for weight in graph.weights.values() for parameter in weight.parameters()}
    return msgspec.structs.replace(record, parameter_count=record.parameter_count or _count(parameters))


def _count(parameters: set[Parameter]) -> int:
    return sum(math.prod(parameter.shape) for parameter in parameters)


def _export_tokenizer(original: Original, options: ConvertOptions, directory: Path) -> records.Tokenizer | None:
    from kexport.converter.tokenizers import export_tokenizer, resolve_stop_token_ids

    preprocessor = getattr(original.task, "preprocessor", None)
    if preprocessor is None or not options.tokenizer:
        return None
    return export_tokenizer(preprocessor, directory, stop_token_ids=resolve_stop_token_ids(original.task))


def _bounded(task: Any, limits: Limits, tokenizer: records.Tokenizer | None) -> records.Tokenizer | None:
    """The tokenizer's record with packers that pack no more than the artifact serves. Of a split prompt as much is kept as the original keeps."""
    from kexport.graphs.capture.semantics import semantics_of

    return limits.in_tokenizer(tokenizer) if FORMS[semantics_of(task).prompt].shares_buffer else tokenizer


def _with_chat(source: Source, tokenizer: records.Tokenizer | None, directory: Path) -> records.Tokenizer | None:
    """The source's chat template beside the tokenizer. Special tokens that the source does not spell are the tokenizer's own."""
    if tokenizer is None or source.chat is None:
        return tokenizer
    from kexport.runtime.tokenizer import open_tokenizer

    codec = open_tokenizer(directory, tokenizer).codec
    own = {f"{name}_token": codec.piece(identifier) for name, identifier in tokenizer.special_tokens.items()}
    (directory / CHAT_FILE).write_text(source.chat.template, encoding="utf-8")
    return msgspec.structs.replace(tokenizer, chat=records.Chat(file=CHAT_FILE, tokens={**own, **source.chat.tokens}))


def _write_vendor_files(
    target: str, emitted: Emitted, tokenizer: records.Tokenizer | None, directory: Path
) -> tuple[records.VendorRuntime, ...]:
    special = tokenizer.special_tokens if tokenizer is not None else {}
    start = prompt_start(tokenizer)
    _, runtimes = targets.get(target).write_vendor_files(
        directory,
        emitted,
        stop_token_ids=tokenizer.stop_token_ids if tokenizer is not None else (),
        start_token_id=special.get("bos"),
        pad_token_id=special.get("pad"),
        prompt_start=start,
        has_tokenizer=tokenizer is not None,
    )
    return tuple(_with_tokenizer_remark(runtime, tokenizer, directory) for runtime in runtimes)


def prompt_start(tokenizer: records.Tokenizer | None) -> tuple[int, ...]:
    """The ids that the original puts in front of every prompt."""
    return tokenizer.packers["prompt"].start if tokenizer is not None and "prompt" in tokenizer.packers else ()


def _with_tokenizer_remark(
    runtime: records.VendorRuntime, tokenizer: records.Tokenizer | None, directory: Path
) -> records.VendorRuntime:
    """A vendor runtime's record with a word on its own tokenizer, where that reads the artifact's file differently."""
    if not runtime.accepted or tokenizer is None:
        return runtime
    from kexport.converter.tokenizers import vendor_tokenizer_difference

    remark = vendor_tokenizer_difference(directory, tokenizer.fixture, runtime=runtime.name, prompt_start=prompt_start(tokenizer))
    return msgspec.structs.replace(runtime, reason="; ".join(part for part in (runtime.reason, remark) if part))


def _carry_over(source: Source, directory: Path) -> None:
    """The source's licence and model card travel with the weights."""
    for folder in {path.parent for path in source.files}:
        for name in CARRIED_OVER:
            if (folder / name).is_file() and not (directory / name).exists():
                shutil.copyfile(folder / name, directory / name)


def _generation(task: Any, tokenizer: records.Tokenizer | None, emitted: Emitted, limits: Limits, *, fixed: bool) -> records.Generation:
    import tensorflow as tf
    from kexport.graphs.capture.semantics import semantics_of

    original = semantics_of(task)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
    return records.Generation(
        sampler={"class_name": type(task.sampler).__name__, "config": _plain(task.sampler.get_config())},
        max_length=limits.max_length,
        stop_token_ids=tokenizer.stop_token_ids if tokenizer is not None else None,
        vocabulary_size=emitted.geometry.vocabulary_size,
        rng=records.Rng(mode=rng_mode(), threads=threads),
        schedule=original.schedule,
        prefill="prompt" if fixed else original.prefill,
        prompt=original.prompt,
        upstream_fix=original.fix or "" if fixed else "",
    )


def _no_generation(backbone: Any) -> records.Generation:
    """What a backbone's record says: how many ids it knows."""
    size = getattr(backbone, "vocabulary_size", None)
    return records.Generation(vocabulary_size=size if isinstance(size, int) else 0)


def _memory(emitted: Emitted, limits: Limits) -> records.Memory:
    weights = sum(file.bytes for file in emitted.files)
    at_capacity = limits.in_cache(emitted.cache).bytes_at_capacity
    return records.Memory(
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


def _file_records(directory: Path, known: tuple[records.File, ...]) -> tuple[records.File, ...]:
    """Every file of the artifact; digests that the writer made while writing are taken from it."""
    made = {file.path: file for file in known}
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name != records.FILE_NAME:
            found.append(made.get(name) or records.File(path=name, bytes=path.stat().st_size, sha256=sha256_file(path)))
    return tuple(found)
