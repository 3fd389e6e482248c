"""Run an artifact's signatures over whole rows on given arrays, in a process of its own: no Keras, the written files only.

    python -m kexport.converter.parity.replay_forward ARTIFACT FEEDS.npz RESULTS.npz LOW_MEMORY ADAPTER

FEEDS holds `<n>:<signature>@<length>:<input>`, RESULTS gets `<n>:<output>`. A length other than 0 is the one of the signature's fixed lengths that the
rows are run at. `hidden_states` stands for what the steps give beside logits. ADAPTER is the name of the adapter to set; empty: none.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from kexport.converter.parity.replay import MAPPED_AT_MOST
from kexport.converter.parity.resident import bounded_mappings
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import KexportError
from kexport.runtime.loading import load


def main(artifact: str, feeds_file: str, results_file: str, low_memory: str, adapter: str) -> None:
    """The process's entry: see the module."""
    calls: dict[tuple[str, str], dict[str, Any]] = {}
    with np.load(feeds_file) as loaded:
        for key in loaded.files:
            index, signature, name = key.split(":", 2)
            calls.setdefault((index, signature), {})[name] = loaded[key]
    is_low = bool(int(low_memory))
    results: dict[str, Any] = {}
    with bounded_mappings(Path(artifact), MAPPED_AT_MOST) if is_low else contextlib.nullcontext():
        model = load(artifact, preprocessor=None, low_memory=is_low, allow_unverified=True)
        if adapter:
            model.set_adapter(adapter)
        for (index, signature), feeds in calls.items():
            outputs = run(model, signature, feeds)
            results |= {f"{index}:{name}": array for name, array in outputs.items()}
    np.savez(results_file, **results)


def run(model: Any, called: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs of `<signature>@<length>`."""
    name, _, length = called.partition("@")
    if name == names.HIDDEN_STATES:
        return {name: hidden_states(model, feeds)}
    if length == "0":
        outputs: dict[str, Any] = model.forward.run(name, feeds)
        return outputs
    at_length = msgspec.structs.replace(model.forward.signature(name), sequence_lengths=(int(length),))
    return dict(model.forward.call(at_length, feeds))


def hidden_states(model: Any, feeds: dict[str, Any]) -> Any:
    """Of the rows `token_ids` [rows, length], their last two tokens in steps of one: float32 [rows, length, hidden size]. All as the original's prefill
    computes them, in one call that another token ends."""
    ids = feeds[names.TOKEN_IDS]
    cache = model.engine.new_cache(*ids.shape)
    cache.prefilled = ids.shape[1], ids.shape[1] + 1
    if "encoder_token_ids" in feeds:
        model.engine.encode(feeds["encoder_token_ids"], feeds["encoder_padding_mask"], cache)
    parts = [part for part in (ids[:, :-2], ids[:, -2:-1], ids[:, -1:]) if part.shape[1]]
    return np.concatenate([model.engine.extend_with_hidden_states(cache, part)[1] for part in parts], axis=1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KexportError as error:
        traceback.print_exc()
        sys.exit(f"[{error.code}] {error.message}")  # the last line is what the converter shows
