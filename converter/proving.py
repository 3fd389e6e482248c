"""Prove artifacts of one original: it is asked once, each artifact is compared with its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from kexport.converter.original import Original
from kexport.converter.parity.attribution import LARGEST_MODEL, attribute_difference, rounding_explains
from kexport.converter.parity.cases import Sizes
from kexport.converter.parity.contradiction import contradictions
from kexport.converter.parity.fixed_lengths import at_fixed_lengths
from kexport.converter.parity.forward import Answer, ask_forward, judge_forward, run_forward
from kexport.converter.parity.gate import Expected, ask_oracle, certificate_of, judge, run_artifact
from kexport.converter.parity.hidden_states import ask_hidden_states
from kexport.converter.parity.oracle import LoadedOracle, Oracle, StreamedOracle
from kexport.converter.parity.vision import ask_vision
from kexport.converter.rounding import RoundedWeights, round_in_place
from kexport.converter.sources import Source
from kexport.graphs.ir import Graph
from kexport.graphs.low_rank import UpdatedWeights
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import ParityError
from kexport.runtime.contract.manifest import Certificate, Images, Manifest, Rng
from kexport.runtime.contract.progress import Reporter
from kexport.runtime.prompt_forms import FORMS
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
    rng: Rng
    warnings: list[str] = field(default_factory=list)


def _fitting(answers: Answers, manifest: Manifest) -> Answers:
    """Those that the artifact is asked for: one for texts alone is shown no images."""
    if manifest.signature(names.VISION) is not None:
        return answers
    return replace(
        answers,
        expected=[answer for answer in answers.expected if not answer.case.images],
        forward=[answer for answer in answers.forward if answer.signature not in names.IMAGES],
    )


@dataclass(slots=True)
class Prover:
    """Proves artifacts of one original at one depth; `graphs` lets a refusal say whether capture or target is wrong."""

    source: Source
    original: Original
    depth: str
    reporter: Reporter
    graphs: Mapping[str, Graph] | None = None
    _answers: dict[str, Answers] = field(default_factory=dict, init=False)

    def prove(self, manifest: Manifest, directory: Path, adapter: str = "") -> Certificate:
        """The certificate of the artifact in `directory`, with the `adapter` of that name set if one is given.

        Raises:
            ParityError: it does not give the original's tokens.
        """
        if not self._answers:
            self._answers = self._ask(manifest)
        answers = _fitting(self._answers[adapter], manifest)
        certificate = self._prove_generation(manifest, directory, answers, adapter)
        certificate = msgspec.structs.replace(certificate, warnings=(*answers.warnings, *certificate.warnings))
        if not answers.forward:
            return certificate
        forward = [*answers.forward, *at_fixed_lengths(answers.forward, manifest, answers.parameters)]
        outputs = run_forward(directory, forward, low_memory=self.depth == "stream", reporter=self.reporter, adapter=adapter)
        graphs = self.graphs if answers.parameters <= LARGEST_MODEL else None
        largest, warnings = judge_forward(forward, outputs, graphs, self._stored_weights(adapter, manifest.dtype.stored))
        return msgspec.structs.replace(
            certificate, max_logit_difference=certificate.max_logit_difference | largest, warnings=(*certificate.warnings, *warnings)
        )

    def _prove_generation(self, manifest: Manifest, directory: Path, answers: Answers, adapter: str) -> Certificate:
        if not answers.expected:
            return certificate_of((), answers.oracle, answers.steps)
        low_memory = self.depth == "stream"
        results = run_artifact(directory, answers.expected, answers.pad, low_memory=low_memory, reporter=self.reporter, adapter=adapter)
        if self.graphs is None or answers.parameters > LARGEST_MODEL:
            return judge(answers.expected, results, answers.oracle, answers.steps, rng=answers.rng)
        return self._judge_and_explain(self.graphs, answers, results, self._stored_weights(adapter, manifest.dtype.stored))

    def _stored_weights(self, adapter: str, stored: str) -> RoundedWeights:
        """The numbers that the artifact computes with: an adapter that is kept apart is added to what is stored, and rounded as that is."""
        base, apart = RoundedWeights(self.original.weights, stored), self.original.adapter(adapter)
        return base if apart is None or apart.merged else RoundedWeights(UpdatedWeights(base, apart.updates), stored)

    def _ask(self, manifest: Manifest) -> dict[str, Answers]:
        """The original's answers by the name of the adapter kept apart; `""` is the artifact as it is opened."""
        pad = manifest.tokenizer.special_tokens.get("pad", 0) if manifest.tokenizer is not None else 0
        sizes = Sizes(
            vocabulary=manifest.generation.vocabulary_size,
            capacity=manifest.cache.capacity,
            encoder_capacity=manifest.cache.encoder_capacity,
            parameters=manifest.source.parameter_count,
            seq2seq=manifest.task == "seq2seq-lm",
            forbidden=frozenset({pad, *(manifest.generation.stop_token_ids or ())}),
            split=not FORMS[manifest.generation.prompt].shares_buffer,
            schedule=manifest.generation.schedule,
            prefill=manifest.generation.prefill,
        )
        adapters = ["", *(adapter.name for adapter in self.original.separate_adapters)]
        if self.depth == "stream" and not self.original.live:
            return {name: self._ask_streamed(name, manifest, sizes, pad) for name in adapters}
        with self.reporter.stage("load the original"):
            task = self.original.task if self.original.live else self.source.load("float32")
        return {name: self._ask_loaded(task, name, manifest, sizes, pad) for name in adapters}

    def _images(self, manifest: Manifest) -> Images | None:
        """What some artifact of this original takes of images, None where none does."""
        signatures = self.graphs if self.graphs is not None else [signature.name for signature in manifest.signatures]
        return manifest.images if names.VISION in signatures else None

    def _ask_streamed(self, name: str, manifest: Manifest, sizes: Sizes, pad: int) -> Answers:
        weights, images = self._stored_weights(name, manifest.dtype.stored), self._images(manifest)
        oracle = StreamedOracle(self.original.task, pad, weights, fix=manifest.generation.upstream_fix, images=images)
        expected, forward, warnings = self._ask_oracle(oracle, manifest, sizes, with_texts=False)
        merged = ", the adapter merged into them" if self.original.adapter(name) is not None else ""
        return Answers(expected, f"{oracle.description}{merged}", oracle.steps, pad, sizes.parameters, forward, manifest.generation.rng, warnings)

    def _ask_loaded(self, task: Any, name: str, manifest: Manifest, sizes: Sizes, pad: int) -> Answers:
        oracle = LoadedOracle(task, pad, fix=manifest.generation.upstream_fix, images=self._images(manifest))
        adapter = self.original.adapter(name)
        with self._as_stored(task, name, manifest.dtype.stored):
            expected, forward, warnings = self._ask_oracle(oracle, manifest, sizes, with_texts=manifest.tokenizer is not None and not oracle.fix)
        loaded = f", {adapter.file.path.name} through load_lora_weights()" if adapter is not None else ""
        return Answers(expected, f"{oracle.description}{loaded}", oracle.steps, pad, sizes.parameters, forward, manifest.generation.rng, warnings)

    @contextlib.contextmanager
    def _as_stored(self, task: Any, name: str, stored: str) -> Iterator[None]:
        """Inside, `task` is the original over the stored numbers, with the adapter as KerasHub loads it if it is merged or asked for by name."""
        from kexport.graphs.capture.lora import without_lora

        original = self.original
        with contextlib.ExitStack() as stack:
            if original.separate_adapters:
                with without_lora(task):  # the base is stored, and so rounded, by itself
                    stack.enter_context(round_in_place(task, stored))
            if original.adapters:
                stack.enter_context(without_lora(task) if original.adapter(name) is None else original.with_adapter(task, name))
            stack.enter_context(round_in_place(task, stored))
            yield

    def _ask_oracle(self, oracle: Oracle, manifest: Manifest, sizes: Sizes, *, with_texts: bool) -> tuple[list[Expected], list[Answer], list[str]]:
        """Its generations, of which a backbone has none, its whole rows, and where it contradicts itself."""
        generates = manifest.task != "backbone"
        if not generates:
            oracle.description = oracle.description.replace("generate(), greedy and seeded", "backbone").replace("cached forward, greedy", "backbone")
        rng = manifest.generation.rng
        expected = ask_oracle(oracle, sizes, with_texts=with_texts, reporter=self.reporter, rng=rng) if generates else []
        forward = [*ask_forward(oracle, manifest, sizes, self.reporter), *ask_hidden_states(oracle, manifest, sizes), *ask_vision(oracle)]
        return expected, forward, [*contradictions(oracle, expected), *oracle.left_out]

    def _judge_and_explain(
        self, graphs: Mapping[str, Graph], answers: Answers, results: dict[str, NDArray[Any]], weights: RoundedWeights
    ) -> Certificate:
        def explain(answer: Expected, row: int, artifact: NDArray[Any]) -> str:
            assert answer.tokens is not None and answer.logits is not None
            return rounding_explains(graphs, weights, answer.case, row, answer.tokens, answer.logits, artifact, answers.pad)

        try:
            return judge(answers.expected, results, answers.oracle, answers.steps, explain, answers.rng)
        except ParityError as error:
            first = answers.expected[0]
            assert first.tokens is not None and first.logits is not None
            cause = attribute_difference(graphs, weights, first.case, first.tokens, first.logits, answers.pad)
            raise ParityError(error.code, f"{error.message}; {cause}", hint=error.hint) from error


def prove_adapters(prover: Prover, manifest: Manifest, directory: Path) -> Manifest:
    """`manifest` with a certificate for each adapter that can be chosen at run time.

    Raises:
        ParityError: with one of them the artifact does not give the original's tokens.
    """
    if not manifest.separate_adapters():
        return manifest
    adapters = [
        msgspec.structs.replace(adapter, parity=prover.prove(manifest, directory, adapter.name)) if adapter.mode == "separate" else adapter
        for adapter in manifest.adapters
    ]
    return msgspec.structs.replace(manifest, adapters=tuple(adapters))
