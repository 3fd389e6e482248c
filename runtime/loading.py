"""Open an artifact: read its manifest, check its files, open its engine and its tokenizer."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kexport.runtime.backbone import Backbone, not_generative
from kexport.runtime.contract.errors import InvalidInputError, UsageError
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import File, Manifest
from kexport.runtime.contract.manifest_io import read_manifest
from kexport.runtime.contract.paths import open_path
from kexport.runtime.engines.base import EngineOptions, open_engine
from kexport.runtime.forward import open_forward
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.tokenizer import open_tokenizer
from kexport.runtime.tokenizer_check import replay_fixture

Check = Literal["fast", "full"]

_SMALL_FILE_BYTES = 32 << 20
_GENERATIVE_TASKS = ("causal-lm", "seq2seq-lm")


def load(
    directory: str | os.PathLike[str],
    preprocessor: Literal["auto"] | None = "auto",
    *,
    threads: int | None = None,
    check: Check = "fast",
    low_memory: bool = False,
    allow_unverified: bool = False,
) -> LanguageModel | Backbone:
    """The artifact in `directory`, ready to generate; a backbone's is called with its inputs.

    `preprocessor` "auto" uses the artifact's tokenizer, if it has one; None takes and gives token ids, as `preprocessor=None` does in KerasHub.
    `threads`: CPU threads, at most the machine's; None leaves it to the engine. `check` "fast" compares the sizes of all files and the digests of small
    ones, "full" the digests of all, and the tokenizer's answers with those recorded at conversion. `low_memory` keeps weights mapped from their file, at some cost in speed.
    `allow_unverified`: generate without a warning even if the artifact was never compared with its original.

    Raises InvalidInputError (KX5xx) for anything wrong with the artifact, UnsupportedError (KX51x) where it needs an engine or a library
    that is not here, UsageError (KX120) for options that do not exist.
    """
    if check not in ("fast", "full"):
        raise UsageError("KX120", f"there is no check `{check}`", hint='choose "fast" or "full"')
    if preprocessor not in ("auto", None):
        raise UsageError("KX120", '`preprocessor` is "auto" or None', hint="an artifact brings its own tokenizer")
    if threads is not None and threads < 1:
        raise UsageError("KX120", f"cannot run on {threads} threads", hint="give at least 1, or nothing")
    threads = None if threads is None else _at_most_the_machines(threads)
    root = Path(directory)
    manifest = read_manifest(root)
    check_files(root, manifest, check)
    forward = partial(open_forward, root, manifest, EngineOptions(threads=threads, low_memory=low_memory))
    if manifest.task not in _GENERATIVE_TASKS:
        return Backbone(forward(), manifest)
    tokenizer = None
    if preprocessor == "auto" and manifest.tokenizer is not None:
        tokenizer = open_tokenizer(root, manifest.tokenizer)
        if check == "full":
            replay_fixture(root, tokenizer)
    engine = open_engine(root, manifest, threads=threads, low_memory=low_memory)
    return LanguageModel(engine, manifest, tokenizer, allow_unverified=allow_unverified, open_forward=forward)


def load_language_model(directory: str | os.PathLike[str], preprocessor: Literal["auto"] | None = "auto", **options: Any) -> LanguageModel:
    """`load` for those who want to generate. Raises as it does, and UnsupportedError (KX512) for a backbone."""
    model = load(directory, preprocessor, **options)
    if isinstance(model, Backbone):
        model.close()
        raise not_generative(model.manifest)
    return model


def check_files(directory: Path, manifest: Manifest, check: Check = "fast") -> None:
    """Compare the files with what the manifest says of them; a digest is computed of small files, or with "full" of all.

    Raises InvalidInputError: KX505 for a path or a kind of file that is not safe, KX506 for another size, KX507 for another content, KX508 for
    a missing file.
    """
    for file in manifest.files:
        path = open_path(directory, file.path)
        _check_size(path, file)
        if check == "full" or file.bytes <= _SMALL_FILE_BYTES:
            _check_digest(path, file)


def _check_size(path: Path, file: File) -> None:
    size = path.stat().st_size
    if size != file.bytes:
        hint = "it was cut off or changed; convert the model again or fetch the artifact from its source again"
        raise InvalidInputError("KX506", f"`{file.path}` has {size} bytes; the manifest says {file.bytes}", hint=hint)


def _check_digest(path: Path, file: File) -> None:
    if sha256_file(path) != file.sha256:
        hint = "it was changed after the conversion; convert the model again or fetch the artifact from its source again"
        raise InvalidInputError("KX507", f"`{file.path}` is not the file that was converted: its SHA-256 differs", hint=hint)


def _at_most_the_machines(threads: int) -> int:
    """More threads than CPUs wait for each other, in some libraries spinning: a step takes seconds, and thousands never start."""
    found = os.cpu_count() or threads
    if threads > found:
        warnings.warn(f"this machine has {found} CPUs: {found} threads, not {threads}", stacklevel=3)
    return min(threads, found)
