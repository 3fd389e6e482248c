"""Text in, text out: converted presets in openvino_genai give the text of our runtime, which the parity gate holds to KerasHub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport import runtime

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[3] / "examples" / "demo_preset"
PROMPTS = ["Once upon a time", " a leading space", "the 3 cats and 12 dogs", "Hi 👍 there"]
LENGTH = 40


def source(kind: str) -> Any:
    """A preset with a SentencePiece tokenizer, or a live model with a byte-level one."""
    if kind == "sentence pieces":
        return str(DEMO)
    from tests.converter import tiny_models

    return tiny_models.bloom()


@pytest.mark.parametrize("kind", ["sentence pieces", "byte level"])
def test_genai_gives_the_runtimes_text(kind: str, tmp_path: Path) -> None:
    """With a leading space, digits and an emoji; on both backends."""
    genai = pytest.importorskip("openvino_genai")
    from kexport.converter import convert

    artifact = convert(source(kind), target="openvino", output=tmp_path / "out", verify="none")
    verdicts = {verdict.name: verdict for verdict in artifact.manifest.runtimes}
    assert all(verdict.accepted for verdict in verdicts.values())
    assert "ordinary ones" not in verdicts["openvino-genai"].reason or "no ordinary" in verdicts["openvino-genai"].reason
    with runtime.load(tmp_path / "out", threads=1, check="full", allow_unverified=True) as model:
        model.compile(sampler="greedy")
        expected = [model.generate(prompt, max_length=LENGTH, strip_prompt=True) for prompt in PROMPTS]
    for backend in ("SDPA", "PA"):
        pipeline = genai.LLMPipeline(str(tmp_path / "out"), "CPU", INFERENCE_PRECISION_HINT="f32", ATTENTION_BACKEND=backend)
        for prompt, text in zip(PROMPTS, expected, strict=True):
            assert pipeline.generate(prompt, max_length=LENGTH, do_sample=False, apply_chat_template=False) == text
