"""Prove artifacts of one original: it is asked once, each artifact is compared with its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from kexport.converter.original import Original
from kexport.converter.parity.attribution import LARGEST_MODEL, attribute_difference, rounding_explains
from kexport.converter.parity.cases import Sizes
from kexport.converter.parity.forward import Answer, ask_forward, judge_forward, run_forward
from kexport.converter.parity.gate import Expected, ask_oracle, certificate_of, judge, run_artifact
from kexport.converter.parity.oracle import LoadedOracle, Oracle, StreamedOracle
from kexport.converter.rounding import RoundedWeights, round_in_place
from kexport.converter.sources import Source
from kexport.graphs.ir import Graph
from kexport.runtime.contract.errors import ParityError
from kexport.runtime.contract.manifest import Certificate, Manifest
from kexport.runtime.contract.progress import Reporter
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answers:
    """What the original said: its answers to the cases, who it was, and what the artifacts need to know."""

    expected: list[Expected]
    oracle: str
    steps: int | None
    pad: int
    parameters: int
    forward: list[Answer]


@dataclass(slots=True)
class Prover:
    """Proves artifacts of one original at one depth; `graphs` lets a refusal say whether capture or target is wrong."""

    source: Source
    original: Original
    depth: str
    reporter: Reporter
    graphs: Mapping[str, Graph] | None = None
    _answers: Answers | None = field(default=None, init=False)

    def prove(self, manifest: Manifest, directory: Path) -> Certificate:
        """The certificate of the artifact in `directory`.

        Raises:
            ParityError: it does not give the original's tokens.
        """
        if self._answers is None:
            self._answers = self._ask(manifest)
        answers = self._answers
        certificate = self._prove_generation(manifest, directory, answers)
        if not answers.forward:
            return certificate
        outputs = run_forward(directory, answers.forward, low_memory=self.depth == "stream", reporter=self.reporter)
        graphs = self.graphs if answers.parameters <= LARGEST_MODEL else None
        largest, warnings = judge_forward(answers.forward, outputs, graphs, RoundedWeights(self.original.weights, manifest.dtype.stored))
        return msgspec.structs.replace(
            certificate, max_logit_difference=certificate.max_logit_difference | largest, warnings=(*certificate.warnings, *warnings)
        )

    def _prove_generation(self, manifest: Manifest, directory: Path, answers: Answers) -> Certificate:
        if not answers.expected:
            return certificate_of((), answers.oracle, answers.steps)
        results = run_artifact(directory, answers.expected, answers.pad, low_memory=self.depth == "stream", reporter=self.reporter)
        if self.graphs is None or answers.parameters > LARGEST_MODEL:
            return judge(answers.expected, results, answers.oracle, answers.steps)
        return self._judge_and_explain(self.graphs, answers, results, RoundedWeights(self.original.weights, manifest.dtype.stored))

    def _ask(self, manifest: Manifest) -> Answers:
        pad = manifest.tokenizer.special_tokens.get("pad", 0) if manifest.tokenizer is not None else 0
        sizes = Sizes(
            vocabulary=manifest.generation.vocabulary_size,
            capacity=manifest.cache.capacity,
            encoder_capacity=manifest.cache.encoder_capacity,
            parameters=manifest.source.parameter_count,
            seq2seq=manifest.task == "seq2seq-lm",
            forbidden=frozenset({pad, *(manifest.generation.stop_token_ids or ())}),
        )
        stored = manifest.dtype.stored
        oracle: Oracle
        if self.depth == "stream" and not self.original.live:
            oracle = StreamedOracle(self.original.task, pad, RoundedWeights(self.original.weights, stored))
            expected, forward = self._ask_oracle(oracle, manifest, sizes, with_texts=False)
        else:
            with self.reporter.stage("load the original"):
                task = self.original.task if self.original.live else self.source.load("float32")
            oracle = LoadedOracle(task, pad)
            with round_in_place(task, stored):
                expected, forward = self._ask_oracle(oracle, manifest, sizes, with_texts=manifest.tokenizer is not None)
        return Answers(expected, oracle.description, oracle.steps, pad, sizes.parameters, forward)

    def _ask_oracle(self, oracle: Oracle, manifest: Manifest, sizes: Sizes, *, with_texts: bool) -> tuple[list[Expected], list[Answer]]:
        """Its generations, of which a backbone has none, and its whole rows."""
        generates = manifest.task != "backbone"
        if not generates:
            oracle.description = oracle.description.replace("generate(), greedy", "backbone").replace("cached forward, greedy", "backbone")
        expected = ask_oracle(oracle, sizes, with_texts=with_texts, reporter=self.reporter) if generates else []
        return expected, ask_forward(oracle, manifest, sizes, self.reporter)

    def _judge_and_explain(
        self, graphs: Mapping[str, Graph], answers: Answers, results: dict[str, NDArray[Any]], weights: RoundedWeights
    ) -> Certificate:
        def explain(answer: Expected, row: int, artifact: NDArray[Any]) -> str:
            assert answer.tokens is not None and answer.logits is not None
            return rounding_explains(graphs, weights, answer.case, row, answer.tokens, answer.logits, artifact, answers.pad)

        try:
            return judge(answers.expected, results, answers.oracle, answers.steps, explain)
        except ParityError as error:
            first = answers.expected[0]
            assert first.tokens is not None and first.logits is not None
            cause = attribute_difference(graphs, weights, first.case, first.tokens, first.logits, answers.pad)
            raise ParityError(error.code, f"{error.message}; {cause}", hint=error.hint) from error
