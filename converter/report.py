"""What a user reads at the end: tables on standard output, or one JSON document."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from kexport.converter.artifact import Artifact
from kexport.converter.console import console, size_text, table
from kexport.converter.inspecting import parity_table, verdict_words
from kexport.converter.plan import Plan
from kexport.runtime.contract.manifest import Certificate
from kexport.runtime.contract.progress import Reporter


def print_certificate(certificate: Certificate) -> None:
    """The parity table and the verdict."""
    screen = console()
    screen.print(parity_table(certificate))
    screen.print(f"verdict: {verdict_words(certificate)}")


def print_summary(artifact: Artifact, reporter: Reporter, *, quiet: bool) -> None:
    """What a conversion made."""
    screen = console()
    manifest, summary = artifact.manifest, artifact.summary
    if not quiet:
        for note in artifact.notes:
            reporter.note(note)
        if manifest.parity.cases:
            screen.print(parity_table(manifest.parity))
    fused = f"{sum(f.fused for f in manifest.fusions)} of {len(manifest.fusions)}"
    seconds = f"{sum(summary.seconds.values()):.1f}"
    row = (manifest.target, size_text(summary.bytes_written), seconds, size_text(summary.peak_resident_bytes), fused, verdict_words(manifest.parity))
    columns = ("target", "#size", "#seconds", "#peak memory", "#attention fused", "parity")
    screen.print(table(f"{manifest.source.class_name} -> {artifact.directory}", columns, [row]))


def artifact_document(artifact: Artifact) -> dict[str, Any]:
    """A conversion's result as JSON."""
    manifest = artifact.manifest
    return {
        "directory": str(artifact.directory),
        "target": manifest.target,
        "class_name": manifest.source.class_name,
        "task": manifest.task,
        "bytes": artifact.summary.bytes_written,
        "seconds": artifact.summary.seconds,
        "peak_resident_bytes": artifact.summary.peak_resident_bytes,
        "verdict": manifest.parity.verdict,
        "tokens_compared": manifest.parity.tokens_compared,
        "tokens_equal": manifest.parity.tokens_equal,
        "near_ties": manifest.parity.near_ties,
        "max_logit_difference": manifest.parity.max_logit_difference,
        "notes": list(artifact.notes),
    }


def certificate_document(certificate: Certificate) -> dict[str, Any]:
    """A certificate as JSON."""
    document: dict[str, Any] = msgspec.to_builtins(certificate)
    return document


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return dataclasses.asdict(plan)


def print_plan(plan: Plan) -> None:
    """A plan as a table."""
    rows = [
        ("model", f"{plan.class_name} ({plan.task}), {plan.parameters:,} parameters, checkpoint {plan.checkpoint_dtype or 'unknown'}"),
        ("target", plan.target),
        ("weights", f"{size_text(plan.weights)} as {plan.stored_dtype}"),
        ("cache", f"{size_text(plan.cache_per_token)} for each token of a row" if plan.cache_per_token else "known after capture"),
        ("longest sequence", plan.max_length or "the position table's rows, else at least 2048"),
        ("tokenizer", "yes" if plan.tokenizer else "no: token ids only"),
        ("proof", plan.verify),
        ("private memory", f"about {size_text(plan.peak_convert)} to convert, {size_text(plan.peak_verify)} to prove"),
        ("disk", size_text(plan.disk)),
    ]
    screen = console()
    screen.print(table(f"Plan for {plan.source}", ("what", "value"), rows))
    for note in plan.notes:
        screen.print(f"note: {note}")
