"""What a user reads at the end: tables on standard output, or one JSON document."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
from kexport.converter.artifact import Artifact, Outcome
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


def print_outcomes(outcomes: Sequence[Outcome], reporter: Reporter, *, quiet: bool) -> None:
    """What a conversion made: notes, parity tables, and one row a target."""
    screen = console()
    made = [outcome.artifact for outcome in outcomes if outcome.artifact is not None]
    if not quiet:
        for note in dict.fromkeys(note for artifact in made for note in (*artifact.notes, *artifact.manifest.parity.warnings)):
            reporter.note(note)
        for artifact in made:
            if artifact.manifest.parity.cases:
                screen.print(f"{artifact.manifest.target}:")
                screen.print(parity_table(artifact.manifest.parity))
    columns = ("target", "#size", "#seconds", "#peak memory", "#attention fused", "parity")
    title = f"{made[0].manifest.source.class_name} -> {_common_place(made)}" if made else "nothing was made"
    screen.print(table(title, columns, [_outcome_row(outcome) for outcome in outcomes]))


def _common_place(made: Sequence[Artifact]) -> str:
    return str(made[0].directory if len(made) == 1 else made[0].directory.parent)


def _outcome_row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.artifact is None:
        assert outcome.error is not None
        return outcome.target, "", "", "", "", f"failed: error[{outcome.error.code}] {outcome.error.message}"
    manifest, summary = outcome.artifact.manifest, outcome.artifact.summary
    fused = f"{sum(f.fused for f in manifest.fusions)} of {len(manifest.fusions)}"
    seconds, peak = f"{sum(summary.seconds.values()):.1f}", size_text(summary.peak_resident_bytes)
    return outcome.target, size_text(summary.bytes_written), seconds, peak, fused, verdict_words(manifest.parity)


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """One target's result as JSON."""
    if outcome.artifact is not None:
        return artifact_document(outcome.artifact)
    assert outcome.error is not None
    return {"target": outcome.target, "error": {"code": outcome.error.code, "message": outcome.error.message, "hint": outcome.error.hint}}


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
        "near_steps": manifest.parity.near_steps,
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
