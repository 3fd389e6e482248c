"""Text in, text out: converted presets in onnxruntime_genai give our runtime's text, or its tokenizer's difference is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[3] / "examples" / "demo_preset"
PROMPTS = ["Once upon a time", " a leading space", "the 3 cats and 12 dogs", "Hi \U0001f44d there"]
LENGTH = 40
SEED, SPREAD = 3, 0.5


def source(kind: str) -> Any:
    """A preset with a SentencePiece tokenizer, or a live model with a byte-level one."""
    if kind == "sentence pieces":
        return str(DEMO)
    from tests.converter import tiny_models

    task, generator = tiny_models.bloom(), np.random.default_rng(SEED)
    for variable in task.variables:  # wide numbers: a model fresh from its initializers repeats one token
        if len(variable.shape) > 1:
            variable.assign(generator.normal(0, SPREAD, variable.shape).astype(np.float32))
    return task


@pytest.mark.parametrize("kind", ["sentence pieces", "byte level"])
def test_genai_gives_the_runtimes_text(kind: str, tmp_path: Path) -> None:
    """Where its tokenizer gives the original's ids, ids and text that it generates are ours; where not, the record says so."""
    genai = pytest.importorskip("onnxruntime_genai", reason="the vendor's runtime is not installed")
    from kexport.converter import convert

    artifact = convert(source(kind), output=tmp_path / "out", verify="none")
    (verdict,) = (item for item in artifact.manifest.runtimes if item.name == "onnxruntime-genai")
    assert verdict.accepted
    model, start = genai.Model(str(tmp_path / "out")), list(artifact.manifest.tokenizer.packers["prompt"].start)  # type: ignore[union-attr]
    tokenizer = genai.Tokenizer(model)
    compared = 0
    with runtime.load(tmp_path / "out", check="full", allow_unverified=True) as ours:
        ours.compile(sampler="greedy")
        assert ours.tokenizer is not None
        for prompt in PROMPTS:
            ids = [int(token) for token in tokenizer.encode(prompt)]
            (expected_ids,) = ours.tokenizer.encode([prompt])
            if ids != expected_ids:
                assert "gives other ids" in verdict.reason, f"{prompt!r} is tokenized differently and the manifest does not say so"
                continue
            parameters = genai.GeneratorParams(model)
            parameters.set_search_options(max_length=LENGTH, do_sample=False)
            generator = genai.Generator(model, parameters)
            generator.append_tokens(np.array([start + ids], np.int32))
            while not generator.is_done():
                generator.generate_next_token()
            produced = [int(token) for token in generator.get_sequence(0)]
            buffer, mask = np.zeros((1, LENGTH), np.int32), np.zeros((1, LENGTH), bool)
            buffer[0, : len(start + ids)], mask[0, : len(start + ids)] = start + ids, True
            assert produced == _generated(tmp_path / "out", buffer, mask)[: len(produced)], prompt
            expected = ours.generate(prompt, max_length=LENGTH)
            if "\ufffd" not in expected:  # cut characters are shown in different ways
                stripped = set(ours.tokenizer.record.stripped_ids)
                text = tokenizer.decode(np.array([token for token in produced if token not in stripped], np.int32))
                assert text.strip() == expected.strip(), prompt
            compared += 1
    assert compared == len(PROMPTS), "none of these strings is one on which the vendor's tokenizer differs"


def _generated(directory: Path, buffer: Any, mask: Any) -> list[int]:
    with runtime.load(directory, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler="greedy")
        rows: Any = model.generate({"token_ids": buffer, "padding_mask": mask}, stop_token_ids=None)["token_ids"]
        return [int(token) for token in rows[0]]
