"""Run an artifact's signatures over whole rows on given arrays, in a process of its own: no Keras, the written files only.

    python -m kexport.converter.parity.replay_forward ARTIFACT FEEDS.npz RESULTS.npz LOW_MEMORY

FEEDS holds `<n>:<signature>:<input>`, RESULTS gets `<n>:<output>`.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.parity.replay import MAPPED_AT_MOST
from kexport.converter.parity.resident import bounded_mappings
from kexport.runtime.contract.errors import KexportError
from kexport.runtime.loading import load


def main(artifact: str, feeds_file: str, results_file: str, low_memory: str) -> None:
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
        for (index, signature), feeds in calls.items():
            results |= {f"{index}:{name}": array for name, array in model.forward.run(signature, feeds).items()}
    np.savez(results_file, **results)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KexportError as error:
        traceback.print_exc()
        sys.exit(f"[{error.code}] {error.message}")  # the last line is what the converter shows
