"""The seed families through the written file and the runtime: the tokens of KerasHub's own `generate()`. No Keras here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.passes import optimise, run_passes
from kexport.runtime.engines.base import Engine
from kexport.runtime.language_model import LanguageModel

from tests.seed_models import MAX_LENGTH, MODELS, Golden, load_golden, padded
from tests.targets.tflite.helpers import Files, opened, write

NARROW = [name for name in MODELS if name.endswith("float16") and "b" + "float16" not in name]
FAMILIES = ["mistral", "gemma", "gemma2", "bloom", "bart"]


def emitted(golden: Golden, directory: Path, **options: Any) -> Files:
    """The golden's graphs as the converter writes them."""
    run_passes(golden.graphs["extend"], optimise())
    return write(directory, golden.graphs, golden.weights, **{"capacity": MAX_LENGTH, "encoder_capacity": 9} | options)


def feeds(golden: Golden, rows: list[int]) -> dict[str, Any]:
    """`generate()`'s input for some of the golden's rows, padded to the whole length."""
    ids, mask = padded([golden.model.prompts[row] for row in rows], MAX_LENGTH)
    if "encode" not in golden.graphs:
        return {"token_ids": ids, "padding_mask": mask}
    encoder_ids, encoder_mask = padded([golden.model.encoder_prompts[row] for row in rows], 8)
    named = {"encoder_token_ids": encoder_ids, "encoder_padding_mask": encoder_mask}
    return named | {"decoder_token_ids": ids, "decoder_padding_mask": mask}


def generated(engine: Engine, files: Files, inputs: dict[str, Any], stop: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Greedy tokens by the public runtime."""
    model = LanguageModel(engine, files.manifest, None, allow_unverified=True)
    model.compile(sampler="greedy")
    return model.generate(inputs, max_length=MAX_LENGTH, stop_token_ids=stop)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Golden, Files, Engine]]:
    """A family's golden, its files, and an engine on them."""
    golden = load_golden(request.param)
    files = emitted(golden, tmp_path_factory.mktemp(request.param))
    with opened(files) as engine:
        yield golden, files, engine


def tokens_of(result: dict[str, Any]) -> list[list[int]]:
    key = "decoder_token_ids" if "decoder_token_ids" in result else "token_ids"
    return np.asarray(result[key]).tolist()


def test_a_ragged_batch(family: tuple[Golden, Files, Engine]) -> None:
    """Three rows of different lengths, up to a full cache."""
    golden, files, engine = family
    assert tokens_of(generated(engine, files, feeds(golden, [0, 1, 2]))) == golden.tokens


def test_a_single_row(family: tuple[Golden, Files, Engine]) -> None:
    """The longest prompt alone."""
    golden, files, engine = family
    assert tokens_of(generated(engine, files, feeds(golden, [1]))) == [golden.tokens[1]]


def test_a_stop_in_the_middle(family: tuple[Golden, Files, Engine]) -> None:
    """Tokens and padding masks with stop ids are the original's."""
    golden, files, engine = family
    result = generated(engine, files, feeds(golden, [0, 1, 2]), golden.stop_token_ids)
    mask = np.asarray(result["decoder_padding_mask" if "encode" in golden.graphs else "padding_mask"])
    assert mask.tolist() == golden.stop_masks
    for got, want, shown in zip(tokens_of(result), golden.stop_tokens, mask, strict=True):
        assert np.array(got)[shown].tolist() == np.array(want)[shown].tolist()


def test_prefill_in_pieces(family: tuple[Golden, Files, Engine]) -> None:
    """However a row is cut, the logits of its last token are the same, and longer rows than the largest bucket are fed in pieces."""
    golden, _, engine = family
    row = np.array([golden.tokens[1][:40]])
    inputs = feeds(golden, [1])
    seen = []
    for cuts in ((40,), (1, 39), (17, 23), (8, 8, 8, 8, 8), (39, 1), (1,) * 40):
        cache = engine.new_cache(1, MAX_LENGTH)
        if "encode" in golden.graphs:
            engine.encode(inputs["encoder_token_ids"], inputs["encoder_padding_mask"], cache)
        start, logits = 0, None
        for size in cuts:
            logits = engine.extend(cache, row[:, start : start + size])
            start += size
        seen.append(logits)
    for logits in seen:
        assert int(np.argmax(logits)) == golden.tokens[1][40]
        np.testing.assert_allclose(logits, seen[0], atol=1e-5 * float(np.std(seen[0])))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in FAMILIES])
def test_every_configuration(name: str, tmp_path: Path) -> None:
    """Head sizes, key-value heads, windows, rope scalings, narrow checkpoints."""
    golden = load_golden(name)
    files = emitted(golden, tmp_path)
    with opened(files) as engine:
        assert tokens_of(generated(engine, files, feeds(golden, [0, 1, 2]))) == golden.tokens


@pytest.mark.parametrize("name", NARROW)
def test_weights_stored_in_float16(name: str, tmp_path: Path) -> None:
    """Numbers that float16 holds give the same tokens from half the file."""
    golden = load_golden(name)
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    wide.mkdir()
    narrow.mkdir()
    files = emitted(load_golden(name), narrow, stored_dtype="float16", prefill_buckets=(8,))
    whole = emitted(golden, wide, prefill_buckets=(8,))
    parameters = {p for weight in golden.graphs["extend"].weights.values() for p in weight.parameters() if len(p.shape) > 1}
    matrices = sum(parameter.nbytes for parameter in parameters)
    assert whole.path.stat().st_size - files.path.stat().st_size > 0.45 * matrices
    with opened(files) as engine:
        assert tokens_of(generated(engine, files, feeds(golden, [0, 1, 2]))) == golden.tokens
