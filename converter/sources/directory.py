"""Directories and hub handles: a store is chosen by the handle's scheme, a format by what config.json says."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kexport.converter.keras_env import import_keras_hub
from kexport.converter.sources.base import Options, Source, opens
from kexport.converter.sources.documents import read_document
from kexport.converter.sources.preset import CONFIG, open_preset
from kexport.converter.sources.stores import HuggingFaceStore, KaggleStore, LocalStore, Store
from kexport.converter.sources.transformers import open_transformers
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import FILE_NAME

_STORES: dict[str, Callable[[str], Store]] = {"hf": HuggingFaceStore, "kaggle": KaggleStore}
_FORMATS: dict[str, Callable[[Store, str, dict[str, Any], Options], Source]] = {
    "registered_name": open_preset,
    "model_type": open_transformers,
}
_NEAR_MATCHES = 3
_LIKENESS = 0.5


@opens(order=20)
def open_directory(source: Any, options: Options) -> Source | None:
    """A local directory with a config.json."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source) or not Path(source).is_dir():
        return None
    if (Path(source) / FILE_NAME).is_file():
        hint = "convert the model that it was made from; `kexport inspect` names it"
        raise InvalidInputError("KX403", f"{source} is an artifact that kexport wrote, not a model to convert", hint=hint)
    return open_store(LocalStore(Path(source), options.trust_source), str(source), options)


@opens(order=30)
def open_hub_handle(source: Any, options: Options) -> Source | None:
    """`hf://...` and `kaggle://...`; other schemes are refused."""
    if not isinstance(source, str) or "://" not in source:
        return None
    scheme = source.split("://")[0].lower()
    if scheme not in _STORES:
        raise UnsupportedError(
            "KX434", f"`{source}`: the scheme `{scheme}://` is not supported", hint="download the preset's folder and give its path"
        )
    return open_store(_STORES[scheme](source), source, options)


@opens(order=40)
def open_preset_id(source: Any, options: Options) -> Source | None:
    """A KerasHub preset id such as `gemma_2b_en`. The list of ids is KerasHub's, so it is imported here."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    name = os.fspath(source)
    if not name or Path(name).exists():
        return None
    if os.sep in name or name.startswith(".") or Path(name).suffix:
        raise InvalidInputError(
            "KX404", f"there is no file or directory {name}", hint="check the path, or give a preset id, kaggle://... or hf://..."
        )
    import_keras_hub()
    from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS

    if name not in BUILTIN_PRESETS:
        near = difflib.get_close_matches(name, BUILTIN_PRESETS, n=_NEAR_MATCHES, cutoff=_LIKENESS)
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else "see keras_hub.models.CausalLM.presets; or give a path, kaggle://... or hf://..."
        )
        raise InvalidInputError("KX405", f"there is no preset or directory `{name}`", hint=hint)
    return open_store(KaggleStore(BUILTIN_PRESETS[name]["kaggle_handle"], handle=name), name, options)


def open_store(store: Store, handle: str, options: Options) -> Source:
    """The source in `store`, of the format its config.json shows.

    Raises:
        InvalidInputError: KX410 no config.json, KX411 not JSON. UnsupportedError: KX418 another format.
    """
    path = store.find(CONFIG)
    if path is None:
        raise InvalidInputError("KX410", f"{handle} has no {CONFIG}", hint="a preset directory is what save_to_preset() writes")
    store.check()
    config = read_document(path, CONFIG)
    for key, opener in _FORMATS.items():
        if key in config:
            return opener(store, handle, config, options)
    raise UnsupportedError(
        "KX418",
        f"{CONFIG} of {handle} is neither KerasHub's (registered_name) nor transformers' (model_type)",
        hint="save the model with save_to_preset()",
    )
