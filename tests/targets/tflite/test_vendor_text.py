"""Text in, text out: converted presets in LiteRT-LM give the text of our runtime, which the parity gate holds to KerasHub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport import runtime
from kexport.runtime.contract.errors import UnsupportedError

from tests.targets.tflite.test_litert_lm import continued, engine_on

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[3] / "examples" / "demo_preset"
PROMPTS = ["Once upon a time", " a leading space", "the 3 cats and 12 dogs", "Hi 👍 there"]
LENGTH = 60
SEED = 3


def source(kind: str) -> Any:
    """A preset with a SentencePiece tokenizer, or a live model with a byte-level one."""
    if kind == "sentence pieces":
        return str(DEMO)
    import keras

    from tests.converter import tiny_models

    keras.utils.set_random_seed(SEED)
    return tiny_models.bloom()


@pytest.mark.parametrize("kind", ["sentence pieces", "byte level"])
def test_litert_lm_gives_the_runtimes_text(kind: str, tmp_path: Path) -> None:
    """With a leading space, digits and an emoji, token ids included.

    Two things of LiteRT-LM's own are left out of the comparison: SentencePiece drops the space that a continuation decoded alone begins
    with, and half a character at the end is shown or not.
    """
    from kexport.converter import convert

    artifact = convert(source(kind), target="tflite", output=tmp_path / "out", verify="none", package="litertlm", max_length=128)
    verdict = next(verdict for verdict in artifact.manifest.runtimes if verdict.name == "litert-lm")
    assert verdict.accepted and "refuses" not in verdict.reason
    assert "ordinary ones" not in verdict.reason or "no ordinary" in verdict.reason
    assert (tmp_path / "out" / "model.litertlm").exists() and not (tmp_path / "out" / "model.tflite").exists()
    with runtime.load(tmp_path / "out", threads=1, check="full", allow_unverified=True) as model, engine_on(tmp_path / "out") as engine:
        model.compile(sampler="greedy")
        compared = 0
        for prompt in PROMPTS:
            expected = model.generate(prompt, max_length=LENGTH, strip_prompt=True)
            got = continued(engine, prompt, LENGTH)
            common = min(len(expected.strip(" \ufffd")), len(got.strip(" \ufffd")))
            assert got.strip(" \ufffd")[:common] == expected.strip(" \ufffd")[:common]
            compared += common
        assert compared > 100


def test_a_bundle_needs_a_tokenizer(tmp_path: Path) -> None:
    """Without one LiteRT-LM would open nothing: refused, nothing left behind."""
    from kexport.converter import convert

    with pytest.raises(UnsupportedError) as caught:
        convert(str(DEMO), target="tflite", output=tmp_path / "out", verify="none", package="litertlm", max_length=64, tokenizer=False)
    assert caught.value.code == "KX238" and not (tmp_path / "out").exists()
