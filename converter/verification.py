"""Verify an artifact that exists: against its original, or by replaying its own certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from kexport.converter.parity.cases import Case
from kexport.converter.parity.compare import compare, compare_texts
from kexport.converter.parity.gate import Expected, run_artifact
from kexport.runtime.contract.errors import InvalidInputError, ParityError
from kexport.runtime.contract.manifest import Certificate, Manifest, ParityCase
from kexport.runtime.contract.manifest_io import read_manifest, write_manifest
from kexport.runtime.contract.progress import Reporter
from kexport.runtime.loading import check_files
from kexport.runtime.tokenizer import open_tokenizer
from kexport.runtime.tokenizer_check import replay_fixture

if TYPE_CHECKING:
    from kexport.converter.lora import LoraFile


def _checked_manifest(artifact: Path, reporter: Reporter) -> Manifest:
    manifest = read_manifest(artifact)
    with reporter.stage("check the files' digests"):
        check_files(artifact, manifest, "full")
    if manifest.tokenizer is not None:
        with reporter.stage("replay the tokenizer's strings"):
            replay_fixture(artifact, open_tokenizer(artifact, manifest.tokenizer))
    return manifest


def verify_artifact(
    artifact: Path, source: str, depth: str | None, *, trust_source: bool, reporter: Reporter, lora: Sequence[str | Path] = ()
) -> Certificate:
    """Compare with the original and renew the certificates in the manifest. `lora`: the files of the artifact's adapters, in any order.

    Raises:
        ParityError: the artifact does not give the original's tokens; the manifest is left as it was.
        InvalidInputError: a file was changed, the source is another model, or the adapter is missing or another one.
    """
    from kexport.converter.options import make_options
    from kexport.converter.original import open_original
    from kexport.converter.plan import make_plan
    from kexport.converter.proving import Prover, prove_adapters
    from kexport.converter.sources import open_source

    manifest = _checked_manifest(artifact, reporter)
    options = make_options(target=manifest.target, dtype=manifest.dtype.stored, verify=depth, tokenizer=manifest.tokenizer is not None)
    opened = open_source(source, task=manifest.task, trust_source=trust_source, tokenizer=manifest.tokenizer is not None)
    if opened.class_name != manifest.source.class_name:
        raise InvalidInputError(
            "KX305", f"the artifact was made from a {manifest.source.class_name}, {source} is a {opened.class_name}", hint="give the artifact's own source"
        )
    adapters = _checked_adapters(manifest, lora)
    plan = make_plan(opened, options)
    with reporter.stage("build the model"):
        original = open_original(opened, adapters, merge=not manifest.separate_adapters())
    prover = Prover(opened, original, plan.verify, reporter)
    proven = prove_adapters(prover, msgspec.structs.replace(manifest, parity=prover.prove(manifest, artifact)), artifact)
    write_manifest(artifact, proven)
    return proven.parity


def _checked_adapters(manifest: Manifest, lora: Sequence[str | Path]) -> dict[str, LoraFile]:
    """The files that the artifact's adapters were made of, whatever they are called now, by the adapters' names."""
    from kexport.converter.lora import read_lora_file

    if lora and not manifest.adapters:
        raise InvalidInputError("KX367", "the artifact was made without an adapter", hint="leave out --lora")
    given = {file.digest: file for file in map(read_lora_file, lora)}
    known = ", ".join(recorded.source for recorded in manifest.adapters)
    foreign = set(given) - {recorded.digest for recorded in manifest.adapters}
    if foreign:
        message = f"`{given[min(foreign)].path.name}` is no adapter that the artifact was made with ({known}): its SHA-256 differs"
        raise InvalidInputError("KX367", message, hint="give the same file")
    missing = [recorded.source for recorded in manifest.adapters if recorded.digest not in given]
    if missing:
        raise InvalidInputError("KX367", f"the artifact was made with the adapter {missing[0]}", hint="give the file of each adapter with --lora")
    return {recorded.name: given[recorded.digest] for recorded in manifest.adapters}


def replay_artifact(artifact: Path, reporter: Reporter) -> Certificate:
    """Run the recorded prompts on this machine; the recorded tokens must come out. Needs neither Keras nor the source.

    Raises:
        ParityError: a token differs.
        InvalidInputError: a file was changed, or there is nothing recorded.
    """
    manifest = _checked_manifest(artifact, reporter)
    if not manifest.parity.cases:
        what = "no certificate" if manifest.parity.verdict == "not-verified" else "no prompts to replay: a backbone is compared with its original only"
        raise InvalidInputError("KX306", f"{artifact} carries {what}", hint="kexport verify ARTIFACT SOURCE makes one")
    replayed = _replay(artifact, manifest, manifest.parity, "", reporter)
    for adapter in manifest.separate_adapters().values():
        _replay(artifact, manifest, adapter.parity, adapter.name, reporter)
    return replayed


def _replay(artifact: Path, manifest: Manifest, certificate: Certificate, adapter: str, reporter: Reporter) -> Certificate:
    """Run the cases of one certificate, with the adapter that it is about."""
    answers = [_expected(case) for case in certificate.cases]
    pad = manifest.tokenizer.special_tokens.get("pad", 0) if manifest.tokenizer is not None else 0
    low_memory = certificate.verdict == "proven-steps"
    results = run_artifact(artifact, answers, pad, low_memory=low_memory, reporter=reporter, adapter=adapter)
    records = []
    for index, (answer, recorded) in enumerate(zip(answers, certificate.cases, strict=True)):
        if answer.texts is not None:
            compared = compare_texts(answer.case, answer.texts, [str(text) for text in results[f"texts:{index}"]])
        else:
            assert answer.tokens is not None
            compared = compare(answer.case, answer.tokens, results[f"tokens:{index}"], None, None)
        if compared.difference is not None and recorded.near_ties + recorded.near_steps == 0:
            raise ParityError(
                "KX304", f"replaying `{recorded.name}`: {compared.difference.text}", hint="this machine's kernels round differently, or a library is broken"
            )
        records.append(compared.record)
    return msgspec.structs.replace(certificate, cases=tuple(records), tokens_equal=sum(r.tokens_equal for r in records if not r.texts))


def _expected(record: ParityCase) -> Expected:
    """A recorded case as it was run."""
    images = tuple(tuple(row) for row in record.inputs.get("images", []))
    if record.texts:
        return Expected(Case(record.name, (), record.max_length, texts=tuple(record.texts), images=images), texts=record.expected_texts)
    case = Case(
        record.name,
        tuple(tuple(row) for row in record.inputs["prompts"]),
        record.max_length,
        tuple(tuple(row) for row in record.inputs.get("encoder", [])),
        record.stop_token_ids,
        tuple(record.inputs["chunks"][0]) if "chunks" in record.inputs else (),
        images=images,
        sampler=record.sampler,
    )
    return Expected(case, np.array(record.expected, np.int32))
