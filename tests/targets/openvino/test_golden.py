"""The seed families through the written files: the tokens of KerasHub's own `generate()`, by our runtime and by openvino_genai. No Keras here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino as ov
import pytest
from kexport.graphs.passes import optimise, run_passes
from kexport.runtime import samplers
from kexport.runtime.engines.base import Engine, open_engine
from kexport.runtime.language_model import LanguageModel
from kexport.targets.base import EmitOptions
from kexport.targets.onnx import emit as emit_onnx
from kexport.targets.openvino import write_vendor_files

from tests.seed_models import MAX_LENGTH, MODELS, Golden, load_golden, padded
from tests.targets.openvino.runs import EXACT, Files, manifest_of, write

FAMILIES = ["mistral", "gemma", "gemma2", "bloom", "bart"]
ENCODER_WIDTH = 8


def emitted(golden: Golden, directory: Path) -> Files:
    """The golden's graphs as the converter writes them."""
    run_passes(golden.graphs["extend"], optimise())
    return write(directory, *golden.graphs.values(), capacity=MAX_LENGTH, source=golden.weights)


def feeds(golden: Golden, rows: list[int]) -> dict[str, Any]:
    """`generate()`'s input for some of the golden's rows, padded to the whole length."""
    ids, mask = padded([golden.model.prompts[row] for row in rows], MAX_LENGTH)
    if "encode" not in golden.graphs:
        return {"token_ids": ids, "padding_mask": mask}
    encoder_ids, encoder_mask = padded([golden.model.encoder_prompts[row] for row in rows], ENCODER_WIDTH)
    named = {"encoder_token_ids": encoder_ids, "encoder_padding_mask": encoder_mask}
    return named | {"decoder_token_ids": ids, "decoder_padding_mask": mask}


def generated(engine: Engine, files: Files, inputs: dict[str, Any], stop: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Greedy tokens by the public runtime."""
    model = LanguageModel(engine, manifest_of(files), None, allow_unverified=True)
    model.compile(sampler="greedy")
    return model.generate(inputs, max_length=MAX_LENGTH, stop_token_ids=stop)


def tokens_of(result: dict[str, Any]) -> list[list[int]]:
    return np.asarray(result["decoder_token_ids" if "decoder_token_ids" in result else "token_ids"]).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Golden, Files, Engine]]:
    """A family's golden, its files, and an engine on them."""
    golden = load_golden(request.param)
    files = emitted(golden, tmp_path_factory.mktemp(request.param))
    with files.open() as engine:
        yield golden, files, engine


@pytest.mark.parametrize("name", MODELS)
def test_every_configuration_gives_the_golden_tokens(name: str, tmp_path: Path) -> None:
    """Three rows of different lengths, up to a full cache; attention is fused except under a softcap and over the encoder."""
    golden = load_golden(name)
    files = emitted(golden, tmp_path)
    own = [fusion for fusion in files.emitted.fusions if "cross" not in fusion.layer]
    assert all(fusion.fused == (golden.model.config.get("attention_logit_soft_cap") is None) for fusion in own)
    with files.open() as engine:
        assert tokens_of(generated(engine, files, feeds(golden, [0, 1, 2]))) == golden.tokens


def test_a_single_row(family: tuple[Golden, Files, Engine]) -> None:
    """Each prompt alone."""
    golden, files, engine = family
    for row in range(3):
        assert tokens_of(generated(engine, files, feeds(golden, [row]))) == [golden.tokens[row]]


def test_a_stop_in_the_middle(family: tuple[Golden, Files, Engine]) -> None:
    """Tokens and padding masks with stop ids are the original's."""
    golden, files, engine = family
    result = generated(engine, files, feeds(golden, [0, 1, 2]), golden.stop_token_ids)
    mask = np.asarray(result["decoder_padding_mask" if "encode" in golden.graphs else "padding_mask"])
    assert mask.tolist() == golden.stop_masks
    for got, want, shown in zip(tokens_of(result), golden.stop_tokens, mask, strict=True):
        assert np.array(got)[shown].tolist() == np.array(want)[shown].tolist()


def test_prefill_may_be_cut_anywhere(family: tuple[Golden, Files, Engine]) -> None:
    """Every cut of a ragged batch of prompts leads to the golden's next tokens."""
    golden, _, engine = family
    ids, mask = padded(golden.model.prompts, max(map(len, golden.model.prompts)))
    for cut in range(1, ids.shape[1]):
        cache = engine.new_cache(3, MAX_LENGTH)
        if "encode" in golden.graphs:
            engine.encode(*padded(golden.model.encoder_prompts, ENCODER_WIDTH), cache)
        first = engine.extend(cache, ids[:, :cut], mask[:, :cut].sum(1))
        second = engine.extend(cache, ids[:, cut:], mask[:, cut:].sum(1))
        last = np.where((mask.sum(1) > cut)[:, None], second, first)
        for step in range(4):
            chosen = last.argmax(1)
            assert chosen.tolist() == [row[len(prompt) + step] for row, prompt in zip(golden.tokens, golden.model.prompts, strict=True)]
            last = engine.extend(cache, chosen[:, None])


SAMPLERS = {
    "beam": {"class_name": "BeamSampler", "config": {"num_beams": 3}},
    "top_k": {"class_name": "TopKSampler", "config": {"k": 5, "seed": 11, "temperature": 2.0}},
    "random": {"class_name": "RandomSampler", "config": {"seed": 11, "temperature": 2.0}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_give_the_tokens_that_they_give_on_onnx(sampler: str, family: tuple[Golden, Files, Engine], tmp_path: Path) -> None:
    """Beams, which change places, and seeded draws are the same on both engines."""
    golden, files, engine = family
    emitted_for_onnx = emit_onnx(golden.graphs, golden.weights, tmp_path, EmitOptions(MAX_LENGTH))
    other = msgspec.structs.replace(manifest_of(Files(tmp_path, emitted_for_onnx, files.source, files.graphs)), target="onnx")
    results = []
    with open_engine(tmp_path, other, threads=1) as onnx_engine:
        for chosen in (engine, onnx_engine):
            model = LanguageModel(chosen, other, None, allow_unverified=True)
            model.compile(sampler=samplers.get(SAMPLERS[sampler]))
            results.append(tokens_of(model.generate(feeds(golden, [0, 1, 2]), max_length=MAX_LENGTH, stop_token_ids=None)))
    assert results[0] == results[1]
    assert results[0] != golden.tokens


PAGED = ["mistral", "gemma", "bloom"]
VENDOR = [(name, "SDPA") for name in [*PAGED, "gemma2"]] + [(name, "PA") for name in PAGED]


@pytest.mark.parametrize(("name", "backend"), VENDOR)
def test_genai_gives_the_golden_tokens(name: str, backend: str, tmp_path: Path) -> None:
    """The vendor's own pipeline on the unmodified artifact: KerasHub's ids, to a full cache."""
    genai = pytest.importorskip("openvino_genai")
    golden = load_golden(name)
    files = emitted(golden, tmp_path)
    unused = next(token for token in range(1, files.emitted.geometry.vocabulary_size) if not any(token in row for row in golden.tokens))
    _, runtimes = write_vendor_files(tmp_path, files.emitted, stop_token_ids=[unused])
    assert [runtime.accepted for runtime in runtimes] == [True, True, name in PAGED]
    pipeline = genai.LLMPipeline(str(tmp_path), "CPU", **EXACT, ATTENTION_BACKEND=backend)
    for prompt, expected in zip(golden.model.prompts, golden.tokens, strict=True):
        ids = genai.TokenizedInputs(ov.Tensor(np.array([prompt], np.int64)), ov.Tensor(np.ones((1, len(prompt)), np.int64)))
        got = pipeline.generate(ids, pipeline.get_generation_config()).tokens[0]
        assert [*prompt, *(int(token) for token in got)] == expected
