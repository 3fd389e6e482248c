"""onnxruntime-genai runs the files unmodified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.targets.onnx import write_vendor_files

from tests.targets.onnx.toys import CAPACITY, Reference, Toy, decoder, encoder, write

genai = pytest.importorskip("onnxruntime_genai")

PROMPT = [3, 17, 5, 40, 22]
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma2": {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "final_softcap": 30.0, "kv_heads": 1, "activation": "gelu"},
    "bloom": {"alibi": True, "rope": False, "activation": "gelu", "kv_heads": 4},
    "positions": {"rope": False, "learned_positions": True},
    "head size 20": {"head_dim": 20},
    "experts": {"experts": 6, "windows": (4,)},
    "experts of gpt-oss": {"experts": 7, "taken": 3, "experts_form": "gpt-oss", "sinks": True},
}


def greedy(reference: Reference, prompt: list[int], length: int) -> list[int]:
    """Greedy tokens by the interpreter, prompt included."""
    tokens = list(prompt)
    logits = reference.extend(np.array([prompt]), np.array([len(prompt)]))
    while len(tokens) < length:
        tokens.append(int(logits[0, -1].argmax()))
        logits = reference.extend(np.array([tokens[-1:]]), np.array([1]))
    return tokens


def by_genai(directory: Path, prompt: list[int], length: int) -> list[int]:
    """Greedy tokens by onnxruntime-genai."""
    model = genai.Model(str(directory))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


@pytest.mark.parametrize("name", FAMILIES)
def test_genai_gives_the_interpreters_tokens(name: str, tmp_path: Path) -> None:
    """Eighteen greedy tokens of onnxruntime-genai are those of the interpreter, up to the capacity."""
    files = write(tmp_path, decoder(Toy(**FAMILIES[name])))
    expected = greedy(Reference(files.graphs["extend"], files.source, 1), PROMPT, CAPACITY - 1)
    unused = next(token for token in range(60, 0, -1) if token not in expected)
    _, runtimes = write_vendor_files(tmp_path, files.emitted, stop_token_ids=[unused])
    assert {runtime.name: runtime.accepted for runtime in runtimes} == {"onnxruntime": True, "onnxruntime-genai": True}
    assert ("1.24.1" in runtimes[0].reason) == ("windows" in FAMILIES[name])
    assert len(set(expected[len(PROMPT) :])) > 3
    assert by_genai(tmp_path, PROMPT, CAPACITY - 1) == expected


def test_genai_stops_at_every_stop_id(tmp_path: Path) -> None:
    """All stop ids reach genai_config.json and end the text."""
    files = write(tmp_path, decoder(Toy()))
    expected = greedy(Reference(files.graphs["extend"], files.source, 1), PROMPT, CAPACITY - 1)
    stop = expected[len(PROMPT) + 3]
    write_vendor_files(tmp_path, files.emitted, stop_token_ids=[60, stop], pad_token_id=0)
    config = json.loads((tmp_path / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == [60, stop]
    assert config["model"]["context_length"] == CAPACITY
    assert config["model"]["type"] == "decoder"
    first = expected.index(stop, len(PROMPT))
    assert by_genai(tmp_path, PROMPT, CAPACITY - 1)[:first] == expected[:first]
    assert len(by_genai(tmp_path, PROMPT, CAPACITY - 1)) <= first + 1


def test_without_stop_ids_the_verdict_says_where_genai_stops(tmp_path: Path) -> None:
    """genai cannot run without a stop id; the stand-in is named in the verdict instead of stopping silently."""
    files = write(tmp_path, decoder(Toy()))
    _, runtimes = write_vendor_files(tmp_path, files.emitted)
    assert "it stops at id 60" in runtimes[1].reason
    expected = greedy(Reference(files.graphs["extend"], files.source, 1), PROMPT, CAPACITY - 1)
    before = expected[: expected.index(60)] if 60 in expected else expected
    assert by_genai(tmp_path, PROMPT, CAPACITY - 1)[: len(before)] == before


def test_seq2seq_has_no_genai_config(tmp_path: Path) -> None:
    """An encoder-decoder says why genai cannot run it, and writes no config that would fail."""
    toy = Toy(cross=True, kv_heads=4, rope=False)
    files = write(tmp_path, encoder(toy), decoder(toy))
    _, runtimes = write_vendor_files(tmp_path, files.emitted)
    verdict = next(runtime for runtime in runtimes if runtime.name == "onnxruntime-genai")
    assert not verdict.accepted and "encoder-decoder" in verdict.reason
    assert not (tmp_path / "genai_config.json").exists()
