"""What `kexport inspect` shows of an artifact: read from its manifest alone, without numpy, an engine or a model file.

`overview` is the document of `--json`; `tables` are the same facts for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from kexport.converter.console import size_text, table
from kexport.runtime.contract.manifest import (
    STATE_KINDS,
    Adapter,
    Cache,
    CacheSlot,
    Certificate,
    Experts,
    Fusion,
    Manifest,
    ParityCase,
    Signature,
    TensorSpec,
)
from rich.table import Table

_SHOWN_DIGEST = 12


def overview(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """Everything that the tables show, as built-in values; sizes in bytes, `cache_bytes` for one row."""
    document: dict[str, Any] = msgspec.to_builtins(manifest)
    document["directory"] = str(directory)
    cache = manifest.cache
    document["cache_bytes"] = {"per_token": cache.bytes_per_token, "states": cache.state_bytes, "at_capacity": cache.bytes_at_capacity}
    document["bytes"] = sum(file.bytes for file in manifest.files)
    return document


def tables(directory: Path, manifest: Manifest) -> Iterator[Table]:
    """The tables, in the order in which they are read."""
    yield _summary(directory, manifest)
    yield _signatures(manifest)
    if any(slot.kind not in STATE_KINDS for slot in manifest.cache.slots):
        yield _caches(manifest.cache)
    if manifest.cache.has_states:
        yield _states(manifest.cache)
    if manifest.fusions:
        yield _fusions(manifest.fusions)
    if manifest.experts:
        yield _experts(manifest.experts)
    if manifest.ops:
        rows = sorted(manifest.ops.items(), key=lambda entry: (-entry[1], entry[0]))
        yield table("Operators", ("op", "#count"), rows)
    yield table(
        "Files", ("file", "#size", "sha256"), ((file.path, size_text(file.bytes), file.sha256[:_SHOWN_DIGEST]) for file in manifest.files)
    )
    if manifest.runtimes:
        runtimes = ((runtime.name, "yes" if runtime.accepted else "no", runtime.reason) for runtime in manifest.runtimes)
        yield table("Runtimes that take it", ("runtime", "takes it", "remark"), runtimes)
    yield from _certificate(manifest.parity)


def _summary(directory: Path, manifest: Manifest) -> Table:
    source, cache, memory = manifest.source, manifest.cache, manifest.memory
    weights = memory.weights or sum(file.bytes for file in manifest.files)
    rows = [
        ("source", f"{source.handle} ({source.class_name})"),
        ("parameters", f"{source.parameter_count:,}" if source.parameter_count else "unknown"),
        ("task", manifest.task),
        ("target", manifest.target),
        ("dtype", f"stored {manifest.dtype.stored}, computed {manifest.dtype.compute}"),
        ("quantization", ", ".join(f"{name}={value}" for name, value in manifest.quantization.items()) or "none"),
        ("weights", size_text(weights)),
        ("capacity", f"{cache.capacity} tokens" if cache.capacity else "not limited"),
        ("cache per token", f"{size_text(cache.bytes_per_token)} for one row"),
        *((("states", f"{size_text(cache.state_bytes)} for one row, whatever its length"),) if cache.has_states else ()),
        ("cache at capacity", f"{size_text(cache.bytes_at_capacity)} for one row"),
        ("expected peak", size_text(memory.expected_peak) if memory.expected_peak else "unknown"),
        ("tokenizer", _tokenizer(manifest)),
        ("sampler", _sampler(manifest.generation.sampler)),
        ("verdict", verdict_words(manifest.parity)),
        *(("adapter", _adapter(adapter)) for adapter in manifest.adapters),
        ("made by", f"kexport {manifest.producer.kexport}"),
    ]
    return table(str(directory), ("", ""), rows)


def _tokenizer(manifest: Manifest) -> str:
    tokenizer = manifest.tokenizer
    if tokenizer is None:
        return "none: token ids only"
    return f"{tokenizer.file}, {tokenizer.vocabulary_size} ids, {tokenizer.proven_strings} strings compared with the original's"


def _adapter(adapter: Adapter) -> str:
    where = "merged" if adapter.mode == "merge" else f"chosen by its name: {verdict_words(adapter.parity)}"
    return f"{adapter.name} (rank {adapter.rank}, alpha {adapter.alpha:g}), {where}"


def _sampler(sampler: dict[str, Any]) -> str:
    arguments = sampler.get("config")
    inner = ", ".join(f"{name}={value}" for name, value in arguments.items()) if isinstance(arguments, dict) else ""
    return f"{sampler.get('class_name', '?')}({inner})"


def _signatures(manifest: Manifest) -> Table:
    cache_names = {name for slot in manifest.cache.slots for name in (*slot.inputs, *slot.outputs)}
    rows = []
    for signature in manifest.signatures:
        for direction, specs in (("in", signature.inputs), ("out", signature.outputs)):
            shown = [spec for spec in specs if spec.name not in cache_names]
            rows += [(_called(signature), signature.file, direction, spec.name, spec.dtype, _shape(spec)) for spec in shown]
            caches = [spec for spec in specs if spec.name in cache_names]
            if caches:
                rows.append((_called(signature), signature.file, direction, f"{len(caches)} cache tensors", caches[0].dtype, _shape(caches[0])))
    return table("Signatures", ("signature", "file", "", "tensor", "dtype", "shape"), rows)


def _called(signature: Signature) -> str:
    """Its name, and the fixed lengths that the shapes do not tell."""
    is_open = any(isinstance(size, str) for spec in signature.inputs for size in spec.shape)
    return f"{signature.name} ({', '.join(map(str, signature.sequence_lengths))})" if is_open and signature.sequence_lengths else signature.name


def _shape(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, spec.shape))}]"


def _caches(cache: Cache) -> Table:
    """Equal slots share a line."""
    groups: dict[tuple[Any, ...], list[CacheSlot]] = {}
    for slot in (slot for slot in cache.slots if slot.kind not in STATE_KINDS):
        key = (
            slot.kind,
            slot.num_key_value_heads,
            slot.head_dim,
            slot.value_head_dim,
            slot.dtype,
            slot.window,
            slot.shared_with is not None,
        )
        groups.setdefault(key, []).append(slot)
    rows = []
    for slots in groups.values():
        one = slots[0]
        shared = "yes" if one.shared_with is not None else ""
        window = "all" if one.window is None else str(one.window)
        rows.append((_names(slots), len(slots), one.kind, one.num_key_value_heads, one.head_dim, one.dtype, window, shared))
    return table("Caches", ("slots", "#count", "kind", "#heads", "#head dim", "dtype", "#window", "shared"), rows)


def _states(cache: Cache) -> Table:
    """Equal states share a line."""
    groups: dict[tuple[Any, ...], list[CacheSlot]] = {}
    for slot in (slot for slot in cache.slots if slot.kind in STATE_KINDS):
        groups.setdefault((slot.kind, slot.shape, slot.dtype), []).append(slot)
    rows = [(_names(slots), len(slots), kind, f"[{', '.join(map(str, shape))}]", dtype) for (kind, shape, dtype), slots in groups.items()]
    return table("States", ("states", "#count", "kind", "shape of a row's", "dtype"), rows)


def _names(slots: list[CacheSlot]) -> str:
    return slots[0].name if len(slots) == 1 else f"{slots[0].name} … {slots[-1].name}"


def _fusions(fusions: tuple[Fusion, ...]) -> Table:
    rows = ((fusion.layer, fusion.form, "fused" if fusion.fused else "fallback", fusion.reason) for fusion in fusions)
    return table("Attention and recurrent layers", ("layer", "form", "", "reason"), rows)


def _experts(experts: tuple[Experts, ...]) -> Table:
    rows = ((one.layer, one.form, f"{one.taken} of {one.count}", f"{one.taken if one.sparse else one.count} of {one.count}", one.reason) for one in experts)
    return table("Experts", ("layer", "form", "#a token takes", "#a step reads at least", "reason"), rows)


def verdict_words(certificate: Certificate) -> str:
    """The verdict in a sentence."""
    if certificate.verdict == "not-verified":
        return "not verified: nobody has compared it with the original"
    depth = f" over {certificate.steps} steps" if certificate.verdict == "proven-steps" else ""
    if not certificate.tokens_compared and certificate.max_logit_difference:
        return f"proven{depth}: outputs differ by at most {max(certificate.max_logit_difference.values()):.2g}"
    return f"proven{depth}: {certificate.tokens_equal} of {certificate.tokens_compared} tokens equal, {near_words(certificate.near_ties, certificate.near_steps)}"


def near_words(near_ties: int, near_steps: int) -> str:
    """How many differing tokens were accepted, of greedy choices and, where there are any, of seeded draws."""
    return f"{near_ties} near ties" + (f", {near_steps} near steps of seeded draws" if near_steps else "")


def _certificate(certificate: Certificate) -> Iterator[Table]:
    if certificate.cases:
        yield parity_table(certificate)
    rows = [("verdict", verdict_words(certificate))]
    rows += [("oracle", certificate.oracle)] if certificate.oracle else []
    rows += [(f"largest logit difference, {name}", f"{value:.2e}") for name, value in certificate.max_logit_difference.items()]
    rows += [(f"bound, {name}", f"{value:g}") for name, value in certificate.bounds.items()]
    rows += [(f"version, {name}", version) for name, version in certificate.versions.items()]
    rows += [("made on", " ".join(certificate.cpu_features))] if certificate.cpu_features else []
    rows += [("warning", warning) for warning in certificate.warnings]
    yield table("Certificate", ("", ""), rows)


def parity_table(certificate: Certificate) -> Table:
    """One line a compared run: tokens, accepted differences (near ties of greedy choices, near steps of seeded draws), the largest logit difference and
    the original's smallest gap."""
    columns = ("case", "sampler", "#tokens", "#equal", "#near ties", "#largest logit difference", "#smallest gap")
    return table("Parity with the original", columns, [_case_row(case) for case in certificate.cases])


def _case_row(case: ParityCase) -> tuple[str, ...]:
    unit = " texts" if case.texts else ""
    measured = case.smallest_gap > 0  # cases without forced logits have tokens only
    difference, gap = (f"{case.max_logit_difference:.2g}", f"{case.smallest_gap:.2g}") if measured else ("", "")
    return case.name, _sampler(case.sampler) if case.sampler else "greedy", f"{case.tokens_compared}{unit}", str(case.tokens_equal), str(case.near_ties + case.near_steps), difference, gap
