"""The proof of signatures over whole rows: the written artifact's outputs, from a fresh process, against the stock model's on the same rows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.parity.attribution import widened
from kexport.converter.parity.cases import FLOAT_BYTES, LOGIT_BYTES_AT_MOST, LONG_CASE_OPERATIONS, RAGGED_LENGTHS, SEED, Sizes
from kexport.converter.parity.oracle import Oracle
from kexport.converter.parity.tolerances import AS_CLOSE_AS, LOGIT_BOUND
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import ParityError
from kexport.runtime.contract.manifest import Manifest, Signature
from kexport.runtime.contract.progress import Reporter
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

SEGMENTS = 2  # of a model that does not say how many it knows
SHOWN_OF_A_CRASH = 2000
HINT = "nothing was written; --keep-failed keeps the artifact as OUT.failed for a report"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the original gave for the rows `feeds` of one signature. `length`: the fixed length that the artifact is to run them at; 0 is its own choice."""

    signature: str
    feeds: Arrays
    outputs: Arrays
    length: int = 0


def ask_forward(oracle: Oracle, manifest: Manifest, sizes: Sizes, reporter: Reporter) -> list[Answer]:
    """The original on a ragged batch, and on one long row, for every signature over whole rows."""
    of_images = set(names.IMAGES)  # proven by prompts with images
    wanted = [signature for signature in manifest.signatures if signature.name in names.FORWARD and signature.name not in of_images]
    answers: list[Answer] = []
    if not wanted:
        return answers
    generator = np.random.default_rng(SEED)
    with reporter.stage("run the original on whole rows", total=len(wanted)) as stage:
        for signature in wanted:
            for lengths in _row_lengths(sizes, streamed=oracle.steps is not None):
                feeds = _feeds(signature, lengths, manifest, sizes, oracle.pad, generator)
                answers.append(Answer(signature.name, feeds, oracle.forward(signature.name, feeds)))
            stage.advance()
    return answers


def _row_lengths(sizes: Sizes, *, streamed: bool) -> list[tuple[int, ...]]:
    """A ragged batch; a row as long as the artifact serves, where that is affordable, so that windows and last positions are seen."""
    ragged = tuple(min(length, sizes.capacity) for length in RAGGED_LENGTHS)
    affordable = int(LONG_CASE_OPERATIONS / max(1, 2 * sizes.parameters))
    longest = min(sizes.capacity, affordable, LOGIT_BYTES_AT_MOST // (FLOAT_BYTES * max(1, sizes.vocabulary)))
    return [ragged] if streamed or longest <= max(ragged) else [ragged, (longest,)]


def _feeds(
    signature: Signature, lengths: tuple[int, ...], manifest: Manifest, sizes: Sizes, pad: int, generator: np.random.Generator
) -> Arrays:
    """Random ids that are neither padding nor stop ids, right-padded; an encoder's rows are the same lengths in another order."""
    allowed = np.array([token for token in range(max(sizes.vocabulary, 1)) if token not in sizes.forbidden] or [0])
    segments = manifest.source.config.get("num_segments", SEGMENTS)
    feeds: Arrays = {}
    for spec in signature.inputs:
        rows = np.array(lengths[::-1] if spec.name.startswith("encoder_") else lengths)[:, None]
        real = np.arange(rows.max()) < rows
        if spec.dtype == "bool":
            feeds[spec.name] = real
        elif spec.name.endswith(names.TOKEN_IDS) or spec.name == names.TARGET_IDS:
            feeds[spec.name] = np.where(real, generator.choice(allowed, real.shape), pad).astype(np.int32)
        elif spec.name == names.POSITION_TABLE:
            feeds[spec.name] = (np.arange(rows.max()) * real).astype(np.int32)
        else:
            feeds[spec.name] = (generator.integers(0, segments, real.shape) * real).astype(np.int32)
    return feeds


def run_forward(directory: Path, answers: list[Answer], *, low_memory: bool, reporter: Reporter, adapter: str = "") -> list[Arrays]:
    """The artifact's outputs for the rows of each answer, from a fresh process without Keras, with one of its adapters set if that is named.

    Raises:
        ParityError: the artifact cannot be run; the process's last words are the detail.
    """
    with tempfile.TemporaryDirectory(prefix="kexport-parity-") as temporary, reporter.stage("run the artifact on whole rows"):
        feeds, results = Path(temporary) / "feeds.npz", Path(temporary) / "results.npz"
        flat = {f"{index}:{answer.signature}@{answer.length}:{name}": array for index, answer in enumerate(answers) for name, array in answer.feeds.items()}
        np.savez(feeds, **flat)  # type: ignore[arg-type]  # numpy's stub wants arrays, and has them
        command = [sys.executable, "-m", "kexport.converter.parity.replay_forward", str(directory), str(feeds), str(results), str(int(low_memory)), adapter]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            last = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
            detail = finished.stderr[-SHOWN_OF_A_CRASH:]
            raise ParityError("KX301", f"the written artifact does not run: {last[0]}", hint="report this with --debug", detail=detail)
        with np.load(results) as loaded:
            return [{name: loaded[f"{index}:{name}"] for name in answer.outputs} for index, answer in enumerate(answers)]


def judge_forward(
    answers: list[Answer], results: list[Arrays], graphs: Mapping[str, Graph] | None, weights: WeightSource
) -> tuple[dict[str, float], list[str]]:
    """The largest difference of each signature, and warnings about models that amplify rounding.

    `graphs`: for exact arithmetic as the judge where a difference is beyond the bound; None where the model is too large for that.

    Raises:
        ParityError: KX383, an output differs from the original's by more than the bound, and rounding does not explain it.
    """
    largest: dict[str, float] = {}
    warnings: list[str] = []
    for answer, result in zip(answers, results, strict=True):
        for name, theirs in answer.outputs.items():
            ours = result[name]
            if ours.shape != theirs.shape:
                raise ParityError("KX383", f"signature `{answer.signature}` gives `{name}` as {ours.shape}, the original as {theirs.shape}", hint=HINT)
            difference = np.abs(ours - theirs)
            largest[answer.signature] = max(largest.get(answer.signature, 0.0), float(difference.max()))
            bound = LOGIT_BOUND["float32"] * (theirs.max(axis=-1, keepdims=True) - theirs.min(axis=-1, keepdims=True))
            if (difference <= bound).all():  # false for NaN, too
                continue
            warning = _rounding_explains(answer, name, ours, graphs, weights)
            if not warning:
                place = tuple(int(index) for index in np.unravel_index(np.argmax(difference - bound), difference.shape))
                raise ParityError(
                    "KX383",
                    f"`{name}` of the signature `{answer.signature}` is not equal to the original's: at {place} it is {ours[place]:.6g}, not {theirs[place]:.6g}",
                    hint=HINT,
                )
            warnings.append(warning)
    return largest, warnings


def _rounding_explains(answer: Answer, name: str, ours: NDArray[Any], graphs: Mapping[str, Graph] | None, weights: WeightSource) -> str:
    """A sentence where original and artifact are about as close to a float64 run of the captured graph as its float32 run is; empty where one
    of them is not. (An original that is farther away says that the graph is another model, not that its numbers are rounded.)"""
    if graphs is None or answer.signature not in graphs or name not in graphs[answer.signature].outputs:
        return ""
    graph = graphs[answer.signature]
    exact, rounded = (run(form, answer.feeds, weights)[name] for form in (widened(graph), graph))
    of_rounding, of_oracle, of_artifact = (float(np.abs(values - exact).max()) for values in (rounded, answer.outputs[name], ours))
    if not max(of_oracle, of_artifact) <= AS_CLOSE_AS * of_rounding:
        return ""
    return (
        f"signature `{answer.signature}`: this model amplifies rounding; the original's `{name}` lies {of_oracle:.2g} from exact arithmetic, "
        f"the artifact's {of_artifact:.2g}"
    )
