"""A KerasHub preset, in a folder or on a hub: config.json, task.json, weights, tokenizer assets.

KerasHub trusts these files to agree with each other; here they are compared before Keras is imported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from kexport.converter.checks import check_tokenizer_fits, check_weights_match
from kexport.converter.keras_env import import_keras
from kexport.converter.sources.base import (
    NO_TOKENIZER_HINT,
    Options,
    Source,
    backbone_of,
    choose_task,
    deserialization_scope,
    explained,
    keras_hub_class,
    task_of_class,
)
from kexport.converter.sources.documents import check_agreement, check_safe, check_serialized, parse_document, read_bytes, read_document
from kexport.converter.sources.stores import Store
from kexport.converter.sources.weight_files import WeightFiles, read_weight_files, shard_names
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

CONFIG, TASK, METADATA, PREPROCESSOR, TOKENIZER = "config.json", "task.json", "metadata.json", "preprocessor.json", "tokenizer.json"
WEIGHTS, SHARDED_WEIGHTS, TASK_WEIGHTS = "model.weights.h5", "model.weights.json", "task.weights.h5"
_SAVE_AGAIN = "save the preset again with save_to_preset()"
_VOCABULARIES = ("vocabulary.json", "vocabulary.spm", "vocabulary.txt")
_MERGES = "merges.txt"


@dataclasses.dataclass(kw_only=True)
class PresetSource(Source):
    """A preset whose files `store` finds. `weights`: what its weight files hold."""

    kind: ClassVar[str] = "preset"
    store: Store
    weights: WeightFiles

    def build(self, load_weights: bool = False, dtype: str | None = "float32") -> Any:
        """`from_preset(load_weights=False)` of the task's class; then, if asked, `load_weights_into`."""
        self._check_registered()
        arguments: dict[str, Any] = {} if self._is_quantized() else {"dtype": dtype}
        if self.task != "backbone" and not self.has_tokenizer:
            arguments["preprocessor"] = None
        with (
            explained("KX419", f"KerasHub cannot build the model of {self.handle}", _SAVE_AGAIN),
            deserialization_scope(self.options.trust_source),
        ):
            built = keras_hub_class(self.task, self.class_name).from_preset(self.store.address, load_weights=False, **arguments)
        if load_weights:
            self.load_weights_into(built)
        return built

    def load_weights_into(self, task: Any) -> None:
        """KerasHub's own order: the task's extra weights if there are any, then the backbone's."""
        backbone = backbone_of(task)
        path = self._weights_path()
        if not self._is_quantized() and not self.weights.is_legacy:
            check_weights_match(backbone, self.weights.shapes, path.name)
        task_weights = self.store.find(TASK_WEIGHTS) if backbone is not task else None
        with explained("KX422", f"{path.name} does not fit the model of {self.handle}", _SAVE_AGAIN):
            if task_weights is not None:
                task.load_task_weights(str(task_weights))
            backbone.load_weights(str(path))

    def _weights_path(self) -> Path:
        path = self.store.find(WEIGHTS) or self.store.find(SHARDED_WEIGHTS)
        assert path is not None, "opening the source has found the weights"
        return path

    def _is_quantized(self) -> bool:
        """Quantized presets keep their own dtype policies; passing a dtype would break them."""
        policy = self.config.get("dtype")
        name = policy.get("class_name", "") if isinstance(policy, dict) else ""
        return "Map" in name or "Quantized" in name

    def _check_registered(self) -> None:
        keras = import_keras()
        keras_hub_class(self.task)
        for name in (CONFIG, TASK):
            path = self.store.find(name)
            registered = read_document(path).get("registered_name") if path is not None else None
            if registered is not None and keras.saving.get_registered_object(registered) is None:
                raise unknown_class(name, registered)


def open_preset(store: Store, handle: str, config: dict[str, Any], options: Options) -> PresetSource:
    """Checks the files of a preset and tells what is in it. `config`: the parsed config.json.

    Raises:
        InvalidInputError, UnsupportedError: KX41x about the configs, KX42x about the weights, KX43x about the tokenizer.
    """
    check_serialized(config, CONFIG)
    documents = {CONFIG: config, **_optional_documents(store)}
    for name, document in documents.items():
        check_safe(document, name, options.trust_source)
    task_config = documents.get(TASK)
    if task_config is not None:
        _check_task_config(config, task_config)
    _check_known_package(config, CONFIG)
    class_name, task = _task(documents, options, handle)
    weights = _read_weights(store, handle)
    _check_metadata(documents.get(METADATA, {}), weights)
    _check_sizes(config["config"], weights)
    has_tokenizer = options.tokenizer and task != "backbone" and _has_tokenizer(documents)
    if has_tokenizer:
        _check_tokenizer_files(store, documents, config["config"])
    task_weights = store.find(TASK_WEIGHTS) if task != "backbone" else None
    extra = read_weight_files(task_weights).paths if task_weights is not None else ()
    return PresetSource(
        handle=handle,
        task=task,
        class_name=class_name,
        config=config["config"],
        parameter_count=weights.parameter_count,
        dtype=weights.dtype,
        files=(*weights.paths, *extra),
        has_tokenizer=has_tokenizer,
        options=options,
        store=store,
        weights=weights,
    )


def unknown_class(name: str, registered: str) -> UnsupportedError:
    """The error for a class that nothing registered."""
    return UnsupportedError(
        "KX413",
        f"{name} is of the class `{registered}`, which no installed package registers with Keras",
        hint="upgrade keras-hub, or, for a class of your own, call kexport from Python after importing it",
    )


def _optional_documents(store: Store) -> dict[str, dict[str, Any]]:
    found = {name: store.find(name) for name in (TASK, METADATA, PREPROCESSOR, TOKENIZER)}
    return {name: read_document(path, name) for name, path in found.items() if path is not None}


def _check_task_config(config: dict[str, Any], task_config: dict[str, Any]) -> None:
    check_serialized(task_config, TASK)
    _check_known_package(task_config, TASK)
    backbone = task_config["config"].get("backbone")
    if isinstance(backbone, dict):
        check_serialized(backbone, f"the backbone in {TASK}")
        check_agreement(config, backbone, CONFIG, TASK)


def _check_known_package(document: dict[str, Any], name: str) -> None:
    """A class that is not KerasHub's can only be known if someone imported Keras and registered it."""
    import sys

    registered = document.get("registered_name")
    if not isinstance(registered, str) or not registered:
        raise InvalidInputError("KX411", f"{name} has no registered_name", hint=_SAVE_AGAIN)
    keras = sys.modules.get("keras")
    custom = not registered.startswith("keras_hub>")
    if custom and (keras is None or keras.saving.get_registered_object(registered) is None):
        raise unknown_class(name, registered)


def _task(documents: dict[str, dict[str, Any]], options: Options, handle: str) -> tuple[str, manifest.Task]:
    """The class that is declared, and the task: of task.json, else of the tasks that metadata.json lists for the backbone."""
    backbone_class = str(documents[CONFIG]["class_name"])
    declared = documents.get(TASK)
    if declared is not None:
        class_name = str(declared["class_name"])
        return class_name, choose_task(options, handle, class_name, task_of_class(class_name))
    listed = documents.get(METADATA, {}).get("tasks") or []
    own = next((task_of_class(name) for name in ("Seq2SeqLM", "CausalLM") if name in listed), task_of_class("Backbone"))
    return backbone_class, choose_task(options, handle, backbone_class, own)


def _read_weights(store: Store, handle: str) -> WeightFiles:
    path = store.find(WEIGHTS)
    if path is None:
        path = store.find(SHARDED_WEIGHTS)
        if path is None:
            raise InvalidInputError("KX420", f"{handle} has neither {WEIGHTS} nor {SHARDED_WEIGHTS}", hint="copy or fetch the whole preset")
        for name in shard_names(path):
            store.find(name)
    return read_weight_files(path)


def _check_metadata(metadata: dict[str, Any], weights: WeightFiles) -> None:
    declared = metadata.get("parameter_count")
    if isinstance(declared, int) and declared > 0 and not weights.is_legacy and declared != weights.parameter_count:
        raise InvalidInputError(
            "KX422",
            f"{weights.paths[0].name} holds {weights.parameter_count:,} parameters, {METADATA} says {declared:,}",
            hint="the weights file is not the one this preset was saved with",
        )


def _check_sizes(config: dict[str, Any], weights: WeightFiles) -> None:
    """Refuses sizes that cannot come from these weights before Keras allocates them."""
    if isinstance(config.get("dtype"), dict) and "Map" in str(config["dtype"].get("class_name")):
        return
    held = weights.parameter_count
    hidden = config.get("embedding_dim") or config.get("hidden_dim")
    for key in ("vocabulary_size", "num_layers"):
        size = config.get(key)
        if isinstance(size, int) and isinstance(hidden, int) and size * hidden > held:
            raise InvalidInputError(
                "KX423",
                f"{CONFIG} has {key}={size:,}, which needs more than the {held:,} parameters that {weights.paths[0].name} holds",
                hint="config and weights are of different models: " + _SAVE_AGAIN,
            )


def _has_tokenizer(documents: dict[str, dict[str, Any]]) -> bool:
    return bool(_tokenizer_configs(documents))


def _tokenizer_configs(documents: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The tokenizer as KerasHub would take it: from task.json if there is one, else from preprocessor.json, else tokenizer.json."""
    if TASK in documents:
        preprocessor = documents[TASK]["config"].get("preprocessor")
        nested = (preprocessor or {}).get("config", {}).get("tokenizer") if isinstance(preprocessor, dict) else None
        return [nested] if isinstance(nested, dict) else []
    nested = documents.get(PREPROCESSOR, {}).get("config", {}).get("tokenizer")
    if isinstance(nested, dict):
        return [nested]
    return [documents[TOKENIZER]] if TOKENIZER in documents else []


def _check_tokenizer_files(store: Store, documents: dict[str, dict[str, Any]], backbone: dict[str, Any]) -> None:
    config = _tokenizer_configs(documents)[0].get("config", {})
    folder = f"assets/{str(config.get('config_file', TOKENIZER)).split('.')[0]}"
    found = {name: path for name in _VOCABULARIES if (path := store.find(f"{folder}/{name}")) is not None}
    if not found:
        raise InvalidInputError(
            "KX430", f"{folder} holds no vocabulary ({', '.join(_VOCABULARIES)})", hint="copy the whole preset, or " + NO_TOKENIZER_HINT
        )
    name, path = next(iter(found.items()))
    highest = _HIGHEST_IDS[name](store, folder, path)
    vocabulary_size = backbone.get("vocabulary_size")
    if isinstance(vocabulary_size, int):
        check_tokenizer_fits(highest, vocabulary_size, f"{folder}/{name}")


def _highest_byte_pair_id(store: Store, folder: str, path: Path) -> int:
    name = f"{folder}/{path.name}"
    if store.find(f"{folder}/{_MERGES}") is None:
        raise InvalidInputError("KX430", f"{folder}/{_MERGES} is missing", hint="copy the whole preset, or " + NO_TOKENIZER_HINT)
    vocabulary = parse_document(read_bytes(path, name), name)
    if not vocabulary or not all(isinstance(identifier, int) and identifier >= 0 for identifier in vocabulary.values()):
        raise InvalidInputError(
            "KX431", f"{name} does not map tokens to ids", hint="fetch or save the preset again, or " + NO_TOKENIZER_HINT
        )
    return int(max(vocabulary.values()))


def _highest_sentence_piece_id(store: Store, folder: str, path: Path) -> int:
    name = f"{folder}/{path.name}"
    try:
        import sentencepiece
    except ImportError as error:
        raise UnsupportedError(
            "KX402", "this tokenizer needs the package `sentencepiece`", hint='pip install "kexport[convert]"'
        ) from error
    content = read_bytes(path, name)
    refusal = InvalidInputError(
        "KX431", f"{name} is not a SentencePiece model", hint="fetch or save the preset again, or " + NO_TOKENIZER_HINT
    )
    if not content:  # the library would take it for a model that is not loaded yet
        raise refusal
    try:
        return int(sentencepiece.SentencePieceProcessor(model_proto=content).vocab_size()) - 1
    except (RuntimeError, ValueError) as error:
        raise refusal from error


def _highest_line(store: Store, folder: str, path: Path) -> int:
    return len(path.read_text(encoding="utf-8", errors="replace").splitlines()) - 1


_HIGHEST_IDS = {"vocabulary.json": _highest_byte_pair_id, "vocabulary.spm": _highest_sentence_piece_id, "vocabulary.txt": _highest_line}
