"""The runtime's ONNX engine drives the files by the manifest records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.runtime.contract.manifest import Manifest, Producer, Source
from kexport.runtime.engines.base import open_engine

from tests.targets.onnx.toys import CAPACITY, Files, Reference, Toy, decoder, encoder, write

BOUND = 5e-6
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma2": {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "final_softcap": 30.0, "kv_heads": 1, "head_dim": 24},
    "bloom": {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4},
    "odd heads": {"head_dim": 20},
    "mask": {"mask": True, "sinks": True},
    "plain cache": {"plain_cache": True},
}


def manifest_of(files: Files, task: str) -> Manifest:
    """A manifest with the records that emission returned."""
    return Manifest(
        producer=Producer(kexport="test"),
        source=Source(handle="toy", class_name="Toy"),
        task=task,  # type: ignore[arg-type]
        target="onnx",
        signatures=files.emitted.signatures,
        cache=files.emitted.cache,
        files=files.emitted.files,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_engine_follows_the_interpreter(name: str, tmp_path: Path) -> None:
    """A ragged prefill, a ragged chunk over a past, single steps and a rewind give the interpreter's logits."""
    files = write(tmp_path, decoder(Toy(**FAMILIES[name])))
    rng = np.random.default_rng(8)
    with open_engine(tmp_path, manifest_of(files, "causal-lm"), threads=1) as engine:
        cache = engine.new_cache(3, CAPACITY)
        reference = Reference(files.graphs["extend"], files.source, 3)
        for counts in ((6, 2, 5), (3, 1, 4), (1, 1, 1), (1, 1, 1)):
            tokens = rng.integers(0, engine.vocabulary_size, (3, max(counts)))
            got = engine.extend(cache, tokens, np.array(counts))
            want = reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(got - want).max() < BOUND * want.std()
        cache.rewind([8, 2, 9])
        reference.lengths = np.array([8, 2, 9])
        tokens = rng.integers(0, engine.vocabulary_size, (3, 1))
        want = reference.extend(tokens, np.ones(3, np.int64))[:, 0]
        assert np.abs(engine.extend(cache, tokens) - want).max() < BOUND * want.std()


def test_engine_runs_encoder_and_decoder(tmp_path: Path) -> None:
    """The encoder's outputs become the decoder's cross caches by the names in the slots."""
    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True, tied=True)
    files = write(tmp_path, encoder(toy), decoder(toy))
    rng = np.random.default_rng(9)
    ids, mask = rng.integers(0, toy.vocabulary, (2, 6)), np.arange(6) < np.array([[6], [3]])
    encoded = run(files.graphs["encode"], {"encoder_token_ids": ids.astype(np.int32), "encoder_padding_mask": mask}, files.source)
    reference = Reference(files.graphs["extend"], files.source, 2, cross={k: v for k, v in encoded.items() if k != "hidden"})
    reference.extra["encoder_padding_mask"] = mask
    with open_engine(tmp_path, manifest_of(files, "seq2seq-lm"), threads=1) as engine:
        cache = engine.new_cache(2, CAPACITY)
        engine.encode(ids, mask, cache)
        for counts in ((3, 1), (1, 1), (1, 1)):
            tokens = rng.integers(0, toy.vocabulary, (2, max(counts)))
            want = reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(engine.extend(cache, tokens, np.array(counts)) - want).max() < BOUND * want.std()
