"""Run cases on an artifact through the runtime, in a process of its own: no Keras, no TensorFlow, the written files only.

    python -m kexport.converter.parity.replay ARTIFACT CASES.json RESULTS.npz

For each case `tokens:<n>` holds what `generate()` gave. Where the case carries the original's tokens, `logits:<n>` holds float32
[rows, length, vocabulary]: at each position of the original's rows, from the prompt's last one on, the artifact's logits for the next
token, with the original's tokens fed (teacher forcing), so that one difference does not hide what comes after it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows
from kexport.converter.parity.images import placed_images, raw_images, with_first_as_file
from kexport.converter.parity.resident import bounded_mappings
from kexport.runtime.contract.errors import KexportError
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.engines.base import CacheState, Engine
from kexport.runtime.generation import EngineDecoder
from kexport.runtime.images.prefill import ImagePrefill
from kexport.runtime.images.prompts import read_placed_images
from kexport.runtime.prompts import Prompt
from numpy.typing import NDArray

MAPPED_AT_MOST = 1_000_000_000  # bytes of weight pages kept resident in a low-memory replay


def forced_logits(engine: Engine, case: Case, rows: NDArray[Any], pad: int, images: ImagePrefill | None = None) -> NDArray[np.float32]:
    """The artifact's logits along the original's rows: [rows, length, vocabulary], NaN in front of each prompt's last token."""
    if case.is_literal:
        return _stepped_logits(engine, case, rows, pad)
    count, length = rows.shape
    logits = np.full((count, length, engine.vocabulary_size), np.nan, np.float32)
    cache = engine.new_cache(count, length)
    if case.encoder:
        engine.encode(*case.encoder_rows(pad), cache)
    lengths = np.array([len(prompt) for prompt in case.prompts])
    logits[np.arange(count), lengths - 1] = _feed_prompts(engine, cache, case, rows, lengths, images)
    while (lengths < length).any():
        running = lengths < length
        tokens = rows[np.arange(count), np.minimum(lengths, length - 1)][:, None]
        step = engine.extend(cache, tokens, running.astype(np.int64))
        logits[running, lengths[running]] = step[running]
        lengths = lengths + running
    return logits


def _stepped_logits(engine: Engine, case: Case, rows: NDArray[Any], pad: int) -> NDArray[np.float32]:
    """The same for a model whose logits depend on how tokens are fed: by the runtime's own prefill and steps, all rows together."""
    logits = np.full((*rows.shape, engine.vocabulary_size), np.nan, np.float32)
    decoder = EngineDecoder(engine, engine.new_cache(*rows.shape), Rng())
    decoder.take_prompt(Prompt(*case.decoder_rows(pad)), case.prefill, pieces=case.chunks)
    for column in range(case.start - 1, rows.shape[1]):
        logits[:, column] = decoder.step(rows[:, column])
    return logits


def _feed_prompts(
    engine: Engine, cache: CacheState, case: Case, rows: NDArray[Any], lengths: NDArray[Any], images: ImagePrefill | None
) -> NDArray[np.float32]:
    if images is not None:
        tokens, counts = images.fill(engine, cache, np.arange(len(rows)), rows[:, : lengths.max()], lengths)
        return engine.extend(cache, tokens, counts)
    if not case.chunks:
        return engine.extend(cache, rows[:, : lengths.max()], lengths)
    done, pieces = 0, list(case.chunks)
    result = np.empty((0, 0), np.float32)
    while done < lengths[0]:
        size = min(pieces.pop(0) if len(pieces) > 1 else pieces[0], int(lengths[0]) - done)
        result = engine.extend(cache, rows[:, done : done + size])
        done += size
    return result


def run_case(model: Any, text_model: Any, case: Case, expected: NDArray[Any] | None, pad: int) -> dict[str, Any]:
    """`tokens` or `texts` of one case, and `logits` where the original's tokens are given."""
    if case.texts:
        return {"texts": _generate_texts(text_model, case)}
    model.compile(sampler=case.sampler or "greedy")
    form = model.manifest.generation.prompt
    inputs: dict[str, Any] = generate_inputs(case, pad, form)
    images = None
    if case.images:
        inputs |= placed_images(case, model.manifest.images, case.max_length)
        placed = read_placed_images(inputs, Prompt(*case.decoder_rows(pad)), model.manifest.images)
        images = ImagePrefill(placed, lambda: model.forward) if placed is not None else None
    generated = model.generate(inputs, stop_token_ids=case.stop_token_ids)
    result: dict[str, Any] = {"tokens": generated_rows(case, generated, form)}
    if expected is not None:
        result["logits"] = forced_logits(model.engine, case, expected, pad, images)
    return result


def _generate_texts(model: Any, case: Case) -> Any:
    if not case.images:
        return model.generate(list(case.texts), max_length=case.max_length)
    with tempfile.TemporaryDirectory(prefix="kexport-parity-") as directory:
        images = with_first_as_file(raw_images(case, model.manifest.images), Path(directory))
        return model.generate({"prompts": list(case.texts), "images": images}, max_length=case.max_length)


def main(artifact: str, cases_file: str, results_file: str) -> None:
    """The process's entry: see the module."""
    from kexport import runtime

    document = json.loads(Path(cases_file).read_text(encoding="utf-8"))
    results: dict[str, NDArray[Any]] = {}
    low_memory = bool(document["low_memory"])
    with bounded_mappings(Path(artifact), MAPPED_AT_MOST) if low_memory else contextlib.nullcontext():
        _run(runtime, artifact, document, low_memory, results)
    np.savez(results_file, **results)  # type: ignore[arg-type]  # numpy's stub wants arrays, and has them


def _run(runtime: Any, artifact: str, document: dict[str, Any], low_memory: bool, results: dict[str, NDArray[Any]]) -> None:
    def opened(preprocessor: str | None) -> Any:
        model = runtime.load(artifact, preprocessor=preprocessor, low_memory=low_memory, allow_unverified=True)
        model.compile(sampler="greedy")
        if document["adapter"]:
            model.set_adapter(document["adapter"])
        return model

    model = opened(None)
    text_model = None
    for index, entry in enumerate(document["cases"]):
        case = case_from_json(entry["case"])
        if case.texts and text_model is None:
            text_model = opened("auto")
        expected = None if entry["expected"] is None else np.array(entry["expected"], np.int32)
        for name, value in run_case(model, text_model, case, expected, document["pad"]).items():
            results[f"{name}:{index}"] = np.asarray(value)
        print(f"case {index}", flush=True)  # noqa: T201  the parent counts these


def case_from_json(entry: dict[str, Any]) -> Case:
    """A case from its JSON form."""
    rows = {name: tuple(tuple(row) for row in entry[name]) for name in ("prompts", "encoder", "images")}
    stop = entry["stop_token_ids"]
    return Case(
        name=entry["name"],
        max_length=entry["max_length"],
        stop_token_ids=None if stop is None else tuple(stop),
        chunks=tuple(entry["chunks"]),
        texts=tuple(entry["texts"]),
        schedule=entry["schedule"],
        prefill=entry["prefill"],
        sampler=entry["sampler"],
        split=entry["split"],
        **rows,
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KexportError as error:
        traceback.print_exc()
        sys.exit(f"[{error.code}] {error.message}")  # the last line is what the converter shows
