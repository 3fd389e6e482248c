"""LiteRT-LM gives KerasHub's tokens for every decoder-only golden model, from the very model file that the target writes.

It opens bundles with a tokenizer only, so the golden model goes into one whose tokenizer has a word for each id: text is ids.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kexport.graphs.passes import optimise, run_passes
from kexport.targets.tflite.litertlm import llm_metadata, write_bundle

from tests.seed_models import MAX_LENGTH, MODELS, Golden, load_golden

from .helpers import write

litert_lm = pytest.importorskip("litert_lm", reason="the vendor's runtime is not installed")
DECODERS = [name for name, model in MODELS.items() if model.family != "bart"]
NEW_TOKENS = 48
ROOM = 128  # it pads a prompt's last piece to its bucket: caches need room behind the last token
WORD = re.compile(r"t(\d+)")


def word_tokenizer(vocabulary_size: int) -> dict[str, Any]:
    """A tokenizer.json with the words t0, t1, ... for the ids 0, 1, ..."""
    model = {"type": "WordLevel", "vocab": {f"t{token}": token for token in range(vocabulary_size)}, "unk_token": "t0"}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model, **nothing}


def bundle(golden: Golden, directory: Path) -> Path:
    """The golden model as a bundle without a stop id of its own (the last id stands for one)."""
    run_passes(golden.graphs["extend"], optimise())
    files = write(directory, golden.graphs, golden.weights, capacity=MAX_LENGTH + ROOM)
    vocabulary = int(golden.model.config["vocabulary_size"])
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_text(json.dumps(word_tokenizer(vocabulary)), encoding="utf-8")
    metadata = llm_metadata(start_token_ids=(), stop_token_ids=[vocabulary - 1], capacity=MAX_LENGTH)
    path = directory / "model.litertlm"
    write_bundle(path, files.path, tokenizer, metadata)
    return path


@pytest.mark.parametrize("name", DECODERS)
def test_litert_lm_gives_the_golden_tokens(name: str, tmp_path: Path) -> None:
    """48 greedy tokens behind each golden prompt, up to the id that stands for a stop."""
    golden = load_golden(name)
    stop = int(golden.model.config["vocabulary_size"]) - 1
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    with litert_lm.Engine(str(bundle(golden, tmp_path)), backend=litert_lm.Backend.CPU(thread_count=1)) as engine:
        for prompt, row in zip(golden.model.prompts, golden.tokens, strict=True):
            sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
            session = engine.create_session(apply_prompt_template=False, sampler_config=sampler, max_output_tokens=NEW_TOKENS)
            session.run_prefill([" ".join(f"t{token}" for token in prompt)])
            text = "".join(response.texts[0] for response in session.run_decode_async() if response.texts)
            session.close()
            produced = [int(number) for number in WORD.findall(text)]
            expected = row[len(prompt) : len(prompt) + NEW_TOKENS]
            expected = expected[: expected.index(stop)] if stop in expected else expected
            assert [token for token in produced if token != stop] == expected
