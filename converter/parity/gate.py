"""Run all cases on the original and, in a fresh process, on the written artifact; give the certificate or refuse."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.cpu import cpu_features
from kexport.converter.parity.cases import FIXED_TEXTS, Case, Sizes, build_cases, one_token_case, seeded_cases, stop_case
from kexport.converter.parity.compare import Compared, compare, compare_texts
from kexport.converter.parity.images import affords_logits, build_image_cases, image_text_case
from kexport.converter.parity.oracle import Oracle
from kexport.converter.parity.tolerances import LOGIT_BOUND, MOST_NEAR_TIES, NEAR_TIE_FACTOR
from kexport.runtime.contract.errors import InternalError, ParityError
from kexport.runtime.contract.manifest import Certificate, Images, ParityCase, Rng
from kexport.runtime.contract.progress import Reporter
from numpy.typing import NDArray

TEXT_NEW_TOKENS = 16
STREAMED_PROMPT = 6
VERSIONS = ("keras", "keras-hub", "tensorflow", "numpy", "onnxruntime", "ai-edge-litert", "openvino", "tokenizers")
SHOWN_OF_A_CRASH = 2000
SHOWN_OF_AN_ERROR = 200
TRACED_CODE = "in user code:"  # how TensorFlow begins the message of an error in what it traces


@dataclasses.dataclass(slots=True)
class Expected:
    """What the original gave for a case: tokens and logits, or texts."""

    case: Case
    tokens: NDArray[np.int32] | None = None
    logits: NDArray[np.float32] | None = None
    texts: list[str] | None = None


def ask_oracle(oracle: Oracle, sizes: Sizes, *, with_texts: bool, reporter: Reporter, rng: Rng) -> list[Expected]:
    """Everything the original has to say. `rng`: the conditions under which the artifact draws."""
    cases = build_cases(sizes) if oracle.steps is None else [_streamed_case(oracle.steps, sizes)]
    answers: list[Expected] = []
    seeded = seeded_cases(cases, sizes) if oracle.draws_as(rng) else []
    with reporter.stage("run the original", total=len(cases) + len(seeded) + 1) as stage:
        for case in cases:
            tokens = oracle.generate(case)
            answers.append(Expected(case, tokens, oracle.logits(case, tokens)))
            stage.advance()
        for case in seeded:
            answers += _ask_seeded(oracle, case)
            stage.advance()
        if oracle.images is not None:
            answers += _ask_for_images(oracle, sizes, oracle.images)
        if oracle.steps is None:
            stopped = stop_case(answers[0].case, answers[0].tokens)  # type: ignore[arg-type]
            on_tokens = [case for case in (stopped, one_token_case(cases[0], sizes)) if case is not None]
            answers += [Expected(case, oracle.generate(case)) for case in on_tokens]
            if with_texts:
                answers += _ask_for_texts(oracle, sizes, reporter)
        stage.advance()
    return answers


def _ask_seeded(oracle: Oracle, case: Case) -> list[Expected]:
    """The original with the case's sampler. Where its own `generate()` fails with that, the certificate says so."""
    import tensorflow as tf

    try:
        tokens = oracle.generate(case)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        oracle.left_out.append(f"case `{case.name}` was left out: the original's own generate() fails with {case.sampler['class_name']}: {telling_line(error)}")
        return []
    return [Expected(case, tokens, oracle.logits(case, tokens))]


def telling_line(error: Exception) -> str:
    """The line of an error's message that says what happened, or its type's name: the first one, the last one behind a listing of traced code."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if lines[0] == TRACED_CODE else 0].strip()[:SHOWN_OF_AN_ERROR]


def _ask_for_images(oracle: Oracle, sizes: Sizes, images: Images) -> list[Expected]:
    """The original on prompts with images; of a streamed one the shortest, and its few steps."""
    cases = build_image_cases(sizes, images)
    if oracle.steps is not None:
        cases = [dataclasses.replace(case, max_length=len(case.prompts[0]) + oracle.steps) for case in cases[-1:]]
    answers = []
    for case in cases:
        tokens = oracle.generate(case)
        answers.append(Expected(case, tokens, oracle.logits(case, tokens) if affords_logits(case, sizes) else None))
    return answers


def _ask_for_texts(oracle: Oracle, sizes: Sizes, reporter: Reporter) -> list[Expected]:
    """The original on text prompts. Where its own text path fails (a reloaded Bart pads encoder prompts beyond its position table), that
    is told, and the artifact is proven on token ids only.
    """
    import tensorflow as tf

    longest = _text_length(oracle)
    length = min(TEXT_NEW_TOKENS, max(0, sizes.capacity - longest)) if sizes.split else min(sizes.capacity, longest + TEXT_NEW_TOKENS)
    cases = [Case("text", (), length, texts=FIXED_TEXTS)]
    with_images = image_text_case(oracle.images, longest + TEXT_NEW_TOKENS) if oracle.images is not None else None
    if with_images is not None and with_images.max_length <= sizes.capacity:
        cases.append(with_images)
    try:
        return [Expected(case, texts=oracle.texts(case)) for case in cases]
    except (ValueError, tf.errors.OpError) as error:
        reporter.warn(f"the original's own generate() fails on text, so only token ids were compared: {telling_line(error)}")
        return []


def _text_length(oracle: Oracle) -> int:
    """The tokens of the longest fixed text."""
    tokenizer = oracle.task.preprocessor.tokenizer
    return max(len(tokenizer(text)) for text in FIXED_TEXTS)


def _streamed_case(steps: int, sizes: Sizes) -> Case:
    case = build_cases(sizes)[0]
    prompt = case.prompts[0][:STREAMED_PROMPT]
    return dataclasses.replace(case, name=f"one row, {steps} steps", prompts=(prompt,), max_length=len(prompt) + steps, encoder=case.encoder[:1])


def run_artifact(
    directory: Path, answers: list[Expected], pad: int, *, low_memory: bool, reporter: Reporter, adapter: str = ""
) -> dict[str, NDArray[Any]]:
    """Replay the cases on the artifact in a fresh process, with one of its adapters set if that is named.

    Raises:
        ParityError: the artifact cannot even be run; the process's last words are the detail.
    """
    entries = [{"case": dataclasses.asdict(a.case), "expected": None if a.logits is None or a.tokens is None else a.tokens.tolist()} for a in answers]
    with tempfile.TemporaryDirectory(prefix="kexport-parity-") as temporary, reporter.stage("run the artifact", total=len(answers)) as stage:
        cases, results = Path(temporary) / "cases.json", Path(temporary) / "results.npz"
        cases.write_text(json.dumps({"cases": entries, "pad": pad, "low_memory": low_memory, "adapter": adapter}), encoding="utf-8")
        command = [sys.executable, "-m", "kexport.converter.parity.replay", str(directory), str(cases), str(results)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stderr is not None
            for _ in process.stdout:
                stage.advance()
            words = process.stderr.read()
        finally:
            process.terminate() if process.poll() is None else None
            code = process.wait()
        if code:
            last = words.strip().splitlines()[-1:] or [f"exit code {code}"]
            raise ParityError("KX301", f"the written artifact does not run: {last[0]}", hint="report this with --debug", detail=words[-SHOWN_OF_A_CRASH:])
        with np.load(results) as loaded:
            return dict(loaded)


Explain = Callable[[Expected, int, NDArray[Any]], str]


def judge(
    answers: list[Expected], results: dict[str, NDArray[Any]], oracle: str, steps: int | None, explain: Explain | None = None, rng: Rng | None = None
) -> Certificate:
    """The certificate. `rng`: the conditions of seeded draws. `explain(answer, row, artifact's logits)`: a sentence where rounding explains logits beyond the bound, else "".

    Raises:
        ParityError: the artifact is not equal to the original; names the first difference.
    """
    compared: list[Compared] = []
    warnings: list[str] = []
    for index, answer in enumerate(answers):
        if answer.texts is not None:
            compared.append(compare_texts(answer.case, answer.texts, [str(text) for text in results[f"texts:{index}"]]))
        elif answer.tokens is not None:
            item = compare(answer.case, answer.tokens, results[f"tokens:{index}"], answer.logits, results.get(f"logits:{index}"), rng)
            if item.difference is not None and item.difference.only_logits and explain is not None:
                warning = explain(answer, item.difference.row, results[f"logits:{index}"])
                item = Compared(item.record, None if warning else item.difference)
                warnings += [warning] if warning else []
            compared.append(item)
        else:
            raise InternalError("KX909", f"case {answer.case.name} has no expectation")
    records = tuple(item.record for item in compared)
    on_tokens = [record for record in records if not record.texts]
    total, near_ties = sum(r.tokens_compared for r in on_tokens), sum(r.near_ties for r in on_tokens)
    near = near_ties + sum(r.near_steps for r in on_tokens)
    # After a near tie a run without forced tokens goes its own way: only cases with forced logits are judged then.
    judged = compared if near_ties == 0 else [item for item, answer in zip(compared, answers, strict=True) if answer.logits is not None]
    failure = next((item.difference for item in judged if item.difference is not None), None)
    if failure is not None:
        raise ParityError("KX302", f"the artifact is not equal to the original in case `{failure.case}`: {failure.text}", hint=_FAILED_HINT)
    if near > MOST_NEAR_TIES * total:
        message = f"{near} of {total} steps are near ties, or draws near a step of the distribution, more than 1 in {1 / MOST_NEAR_TIES:g}"
        raise ParityError("KX303", message, hint=_FAILED_HINT)
    return certificate_of(records, oracle, steps, warnings)


def certificate_of(records: tuple[ParityCase, ...], oracle: str, steps: int | None, warnings: list[str] | None = None) -> Certificate:
    """The certificate of cases that are equal; of a backbone, which generates nothing, there are none."""
    on_tokens = [record for record in records if not record.texts]
    return Certificate(
        verdict="proven" if steps is None else "proven-steps",
        steps=steps or 0,
        oracle=oracle,
        cases=records,
        tokens_compared=sum(r.tokens_compared for r in on_tokens),
        tokens_equal=sum(r.tokens_equal for r in on_tokens),
        near_ties=sum(r.near_ties for r in on_tokens),
        near_steps=sum(r.near_steps for r in on_tokens),
        max_logit_difference={"decode": max(r.max_logit_difference for r in on_tokens)} if on_tokens else {},
        bounds={"logits_share_of_spread": LOGIT_BOUND["float32"], "near_tie_gap_in_bounds": NEAR_TIE_FACTOR, "near_ties_at_most": MOST_NEAR_TIES},
        versions={"python": platform.python_version(), **library_versions(VERSIONS)},
        cpu_features=cpu_features(),
        warnings=tuple(warnings or ()),
    )


_FAILED_HINT = "nothing was written; --keep-failed keeps the artifact as OUT.failed for a report"


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
