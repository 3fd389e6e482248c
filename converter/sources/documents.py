"""JSON files of a preset, read with errors that name the file, and the checks of what stands in them."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kexport.runtime.contract.errors import InvalidInputError

LARGEST_DOCUMENT = 256 * 2**20
_TRUST_HINT = "only if you trust whoever made it: --trust-source"
_SAFE_MODULES = re.compile(
    r"(keras|keras\.src)(\.(layers|initializers|regularizers|constraints|activations|dtype_policies|models|quantizers|random|optimizers|losses|metrics)(\.[a-z0-9_.]+)?)?"
    r"|keras_hub(\.[a-z0-9_.]+)?"
)
_PLAIN_CONFIG_FILE = re.compile(r"[A-Za-z0-9_-]+\.json")
_NOT_ARCHITECTURE = ("dtype", "name", "trainable")


def read_document(path: Path, name: str | None = None) -> dict[str, Any]:
    """The JSON object in `path`. `name`: what messages call the file (default: its file name).

    Raises:
        InvalidInputError: KX411, the file is not a JSON object.
    """
    name = name or path.name
    return parse_document(read_bytes(path, name), name)


def read_bytes(path: Path, name: str) -> bytes:
    """The whole of a small file. Raises InvalidInputError KX411 if it is not small or cannot be read."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_DOCUMENT else b""
    except OSError as error:
        raise InvalidInputError("KX411", f"{name} cannot be read: {error.strerror}", hint="check the file's permissions") from error
    if size > LARGEST_DOCUMENT:
        raise InvalidInputError(
            "KX411", f"{name} is larger than {LARGEST_DOCUMENT >> 20} MiB: not a config", hint="is the path the right one?"
        )
    return content


def parse_document(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `content`, the bytes of the file `name`. Raises InvalidInputError KX411."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("KX411", f"{name} is not valid JSON: {error}", hint="fetch or save the preset again") from error
    if not isinstance(document, dict):
        raise InvalidInputError("KX411", f"{name} holds a {type(document).__name__}, not an object", hint="fetch or save the preset again")
    return document


def check_safe(document: dict[str, Any], name: str, trust_source: bool) -> None:
    """Refuses what a config could run or read: Lambda layers, classes from outside Keras, asset folders outside the preset.

    Raises:
        InvalidInputError: KX414 for code, KX415 for a tokenizer's `config_file`.
    """
    for entry in _objects(document):
        _check_config_file(entry, name)
        if not trust_source:
            _check_code(entry, name)


def check_serialized(document: dict[str, Any], name: str) -> None:
    """Makes sure that `document` is a serialized Keras object. Raises InvalidInputError KX411."""
    if not isinstance(document.get("config"), dict) or not isinstance(document.get("class_name"), str):
        raise InvalidInputError(
            "KX411", f"{name} is not a saved Keras object (no `class_name` and `config`)", hint="fetch or save the preset again"
        )


def check_agreement(config: dict[str, Any], nested: dict[str, Any], name: str, nested_name: str) -> None:
    """Compares two serialized backbones that describe one model, keys that both have, dtype and name aside.

    Raises:
        InvalidInputError: KX412, naming the first key that differs.
    """
    differing = _first_difference(
        {"class_name": config.get("class_name"), **config["config"]}, {"class_name": nested.get("class_name"), **nested["config"]}
    )
    if differing is None:
        return
    key, one, other = differing
    raise InvalidInputError(
        "KX412",
        f"{name} and {nested_name} disagree about `{key}`: {one!r} and {other!r}",
        hint="KerasHub would silently follow task.json; restore the file that was edited, or save the preset again",
    )


def _first_difference(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    for key in one.keys() & other.keys() - set(_NOT_ARCHITECTURE):
        left, right = one[key], other[key]
        if isinstance(left, dict) and isinstance(right, dict):
            nested = _first_difference(left, right, f"{prefix}{key}.")
            if nested is not None:
                return nested
        elif left != right:
            return f"{prefix}{key}", left, right
    return None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All dicts in a JSON value, without recursion (a hostile file may nest deeply)."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _check_code(entry: dict[str, Any], name: str) -> None:
    class_name = entry.get("class_name")
    if not isinstance(class_name, str):
        return
    if class_name.strip("_").lower() == "lambda" or str(entry.get("registered_name")).rsplit(">")[-1] == "Lambda":
        raise InvalidInputError("KX414", f"{name} holds a Lambda layer, which runs code from the file", hint=_TRUST_HINT)
    module = entry.get("module")
    if module in (None, "") or _is_plain_function(entry):
        return
    if not isinstance(module, str) or not _SAFE_MODULES.fullmatch(module):
        raise InvalidInputError(
            "KX414", f"{name} names the class `{class_name}` of module `{module}`, which is not a Keras model part", hint=_TRUST_HINT
        )


def _is_plain_function(entry: dict[str, Any]) -> bool:
    """A function kept by the name it is registered under, as custom activations are; never a Python built-in."""
    return (
        entry.get("module") == "builtins"
        and entry["class_name"] == "function"
        and isinstance(entry.get("config"), str)
        and entry["config"] not in vars(builtins)
    )


def _check_config_file(entry: dict[str, Any], name: str) -> None:
    config_file = entry.get("config_file")
    if config_file is not None and not (isinstance(config_file, str) and _PLAIN_CONFIG_FILE.fullmatch(config_file)):
        raise InvalidInputError(
            "KX415",
            f"{name} points the tokenizer at `{config_file}`, which is not a plain file name in the preset",
            hint='`config_file` must look like "tokenizer.json"',
        )
