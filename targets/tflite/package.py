"""What LiteRT-LM needs beyond the model: everything in one bundle. Other runtimes of the vendor take `model.tflite` as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import File, VendorRuntime
from kexport.targets.base import Emitted
from kexport.targets.geometry import foreign_to_vendors
from kexport.targets.tflite.emit import BUNDLE_FILE, MODEL_FILE
from kexport.targets.tflite.litertlm import llm_metadata, write_bundle

LITERT = "litert"
LITERT_LM = "litert-lm"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.spm")


def write_vendor_files(
    directory: Path,
    emitted: Emitted,
    *,
    stop_token_ids: Sequence[int] = (),
    prompt_start: Sequence[int] = (),
    has_tokenizer: bool = False,
) -> tuple[tuple[File, ...], tuple[VendorRuntime, ...]]:
    """Put `model.tflite` and the tokenizer into `model.litertlm` where the signatures name that file; say which runtimes take the artifact.

    `prompt_start`: the ids put before every prompt. `stop_token_ids`: all ids that end a text.

    Raises:
        UnsupportedError: a bundle is wanted and there is no tokenizer that LiteRT-LM reads.
    """
    litert = VendorRuntime(name=LITERT, accepted=True)
    if all(signature.file != BUNDLE_FILE for signature in emitted.signatures):
        return (), (litert, VendorRuntime(name=LITERT_LM, accepted=False, reason=_why_not(emitted)))
    tokenizer = next((directory / name for name in TOKENIZER_FILES if (directory / name).exists()), None)
    if not has_tokenizer or tokenizer is None:
        message = "LiteRT-LM opens no bundle without a tokenizer, and the artifact has none that it reads"
        raise UnsupportedError("KX238", message, hint="use --package tflite, or convert a source with a tokenizer")
    metadata = llm_metadata(start_token_ids=prompt_start, stop_token_ids=stop_token_ids, capacity=emitted.cache.capacity)
    written = write_bundle(directory / BUNDLE_FILE, directory / MODEL_FILE, tokenizer, metadata)
    (directory / MODEL_FILE).unlink()
    inside = VendorRuntime(name=LITERT, accepted=False, reason="the model stands inside the bundle; --package tflite gives it alone")
    return (written,), (inside, VendorRuntime(name=LITERT_LM, accepted=True))


def _why_not(emitted: Emitted) -> str:
    if any(signature.name.startswith(names.ENCODE) for signature in emitted.signatures):
        return "it has no layout for models with an encoder"
    if foreign := foreign_to_vendors(emitted):
        return foreign
    return "it opens bundles only: --package litertlm"
