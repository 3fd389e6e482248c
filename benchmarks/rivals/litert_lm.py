"""LiteRT-LM on the model file of our TFLite artifact.

It opens bundles only, and no bundle without a tokenizer; the benchmark preset has none. So the very same `model.tflite` is put into a bundle with a
made-up tokenizer that has one word for each token id: prompts are written as such words, and the text that comes back is read as ids.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kexport.runtime.contract.manifest_io import read_manifest

from rivals.base import Clock, Rival
from rivals.registry import register

MODEL, BUNDLE, TOKENIZER, FOLDER = "model.tflite", "model.litertlm", "tokenizer.json", "litert-lm"
WORD = re.compile(r"t(\d+)")


@register("litert-lm")
class LitertLm(Rival):
    """A session without a prompt template, top-k of 1, its cache of packed weights as it comes: a file next to the bundle, written in the first visit."""

    label = "litert-lm"
    runs_on = "tflite"
    libraries = ("litert_lm", "litert_lm_builder")
    remark = (
        "the same model.tflite in a bundle with a made-up tokenizer of one word per token id, which its time includes; "
        "from the second round on it finds its own cache file of packed weights"
    )

    def prepare(self, source: Path, workdir: Path) -> Path:
        from kexport.targets.tflite.litertlm import llm_metadata, write_bundle
        from kexport.targets.tflite.plan import DEFAULT_BUCKETS, chosen_buckets, head_room

        manifest = read_manifest(source)
        capacity = manifest.cache.capacity
        vocabulary_size = _vocabulary_size(manifest)
        folder = workdir / FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run's cache file of packed weights would never be used again
        folder.mkdir(parents=True)
        tokenizer = folder / TOKENIZER
        tokenizer.write_text(json.dumps(word_tokenizer(vocabulary_size)), encoding="utf-8")
        # It pads a prompt's last piece to its bucket: the caches must have room behind the last token.
        room = capacity - head_room(chosen_buckets(DEFAULT_BUCKETS, capacity))
        metadata = llm_metadata(start_token_ids=(), stop_token_ids=[vocabulary_size - 1], capacity=room)
        write_bundle(folder / BUNDLE, source / MODEL, tokenizer, metadata)
        return folder / BUNDLE

    def import_libraries(self, target: str) -> None:
        self._library: Any = importlib.import_module("litert_lm")

    def load(self, place: Path, *, threads: int) -> None:
        library = self._library
        library.set_min_log_severity(library.LogSeverity.ERROR)
        self._engine = library.Engine(str(place), backend=library.Backend.CPU(thread_count=threads))

    def run(self, prompt: Sequence[int], new_tokens: int, length: int, clock: Clock) -> list[int]:
        sampler = self._library.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
        session = self._engine.create_session(apply_prompt_template=False, sampler_config=sampler, max_output_tokens=new_tokens)
        session.run_prefill([" ".join(f"t{token}" for token in prompt)])
        pieces = []
        for response in session.run_decode_async():
            if response.texts and response.texts[0]:
                pieces.append(response.texts[0])
                clock.tick()
        session.close()
        return [int(number) for number in WORD.findall("".join(pieces))]

    def close(self) -> None:
        self._engine.close()


def word_tokenizer(vocabulary_size: int) -> dict[str, Any]:
    """A Hugging Face `tokenizer.json` with the words t0, t1, ... for the ids 0, 1, ..."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"t{token}": token for token in range(vocabulary_size)}, "unk_token": "t0"},
    }  # fmt: skip


def _vocabulary_size(manifest: Any) -> int:
    logits = next(spec for signature in manifest.signatures for spec in signature.outputs if spec.name == "logits")
    return int(logits.shape[-1])
