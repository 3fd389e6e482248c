"""Read and write `kexport.json`. Reading trusts nothing: an artifact may come from a stranger or from the future."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from .errors import InternalError, InvalidInputError
from .manifest import FILE_NAME, FORMAT_VERSION, Manifest
from .paths import check_no_twins, check_relative_path, open_path

_MAXIMUM_BYTES = 64 << 20
_MAXIMUM_DEPTH = 64
_HINT_DAMAGED = "the file is damaged or was edited; convert the model again or fetch the artifact from its source again"


def read_manifest(directory: Path) -> Manifest:
    """The validated manifest of the artifact in `directory`.

    Raises InvalidInputError: KX501 no manifest there, KX502 not strict JSON (duplicate keys, NaN, nesting, size, encoding), KX503 written
    by a newer kexport, KX504 unknown keys, wrong types or records that contradict each other, KX505 an unsafe path.
    """
    if not directory.is_dir():
        raise InvalidInputError("KX501", f"`{directory}` is not a directory", hint="give the directory that `kexport convert` wrote")
    if not (directory / FILE_NAME).exists():
        hint = f"give the directory that `kexport convert` wrote: it holds `{FILE_NAME}`"
        raise InvalidInputError("KX501", f"`{directory}` is not a kexport artifact: it has no `{FILE_NAME}`", hint=hint)
    path = open_path(directory, FILE_NAME)
    size = path.stat().st_size
    if size > _MAXIMUM_BYTES:
        raise _damaged(f"it is {size} bytes long, more than a manifest can be")
    return parse_manifest(path.read_bytes())


def parse_manifest(data: bytes) -> Manifest:
    """The validated manifest in `data`. Raises InvalidInputError as `read_manifest` does."""
    document = _parse_strict_json(data)
    if not isinstance(document, dict):
        raise _damaged("it is not a JSON object")
    _check_version(document.get("format_version"))
    try:
        manifest = msgspec.convert(document, Manifest, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidInputError("KX504", f"`{FILE_NAME}` does not follow its format: {error}", hint=_HINT_DAMAGED) from error
    _check_consistency(manifest)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> Path:
    """Write `manifest` into `directory` and return the file's path."""
    path = directory / FILE_NAME
    path.write_bytes(encode_manifest(manifest))
    return path


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: UTF-8, two spaces of indentation, records in the order of their fields, free dictionaries sorted by key.

    Equal manifests give equal bytes. Raises InternalError (KX930) for a number that JSON cannot hold.
    """
    document = msgspec.to_builtins(manifest, order="deterministic")
    ordered = {name: document[name] for name in (field.name for field in msgspec.structs.fields(Manifest))}
    try:
        text = json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InternalError("KX930", f"the manifest holds a number that JSON cannot: {error}") from error
    return f"{text}\n".encode()


def _parse_strict_json(data: bytes) -> Any:
    """JSON without duplicate keys, NaN or infinities, and not nested without end."""
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise _damaged("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise _damaged("it is not UTF-8 text") from error
    except ValueError as error:  # json.JSONDecodeError, and integers of absurd length
        raise _damaged(str(error)) from error
    _check_depth(document)
    return document


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands there twice")
        result[key] = value
    return result


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _check_depth(document: Any) -> None:
    """Walk without recursion; later readers may recurse."""
    level = [document]
    for _ in range(_MAXIMUM_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _damaged("it is nested too deeply")


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _check_version(version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InvalidInputError("KX504", f"`{FILE_NAME}` has no valid `format_version`", hint=_HINT_DAMAGED)
    if version > FORMAT_VERSION:
        message = f"`{FILE_NAME}` has format version {version}; this kexport reads up to {FORMAT_VERSION}"
        raise InvalidInputError("KX503", message, hint="pip install --upgrade kexport")


def _check_consistency(manifest: Manifest) -> None:
    """Records must not contradict each other; paths must be safe."""
    paths = [file.path for file in manifest.files]
    for path in paths:
        check_relative_path(path)
    check_no_twins(paths)
    listed = set(paths)
    for owner, path in _named_files(manifest):
        check_relative_path(path)
        if path not in listed:
            raise _contradiction(f"{owner} names the file `{path}`, which `files` does not list")
    _check_unique("signature", [signature.name for signature in manifest.signatures])
    _check_unique("adapter", [adapter.name for adapter in manifest.adapters])
    slots = [slot.name for slot in manifest.cache.slots]
    _check_unique("cache slot", slots)
    for name in (name for layer in manifest.cache.layers for name in layer):
        if name not in slots:
            raise _contradiction(f"a layer reads the cache slot `{name}`, which does not exist")
    if any(file.bytes < 0 for file in manifest.files) or manifest.cache.capacity < 0:
        raise _contradiction("a size is negative")


def _named_files(manifest: Manifest) -> list[tuple[str, str]]:
    named = [(f"signature `{signature.name}`", file) for signature in manifest.signatures for file in (signature.file, signature.data) if file]
    if manifest.tokenizer is not None:
        named.append(("`tokenizer`", manifest.tokenizer.file))
        if manifest.tokenizer.fixture:
            named.append(("`tokenizer`", manifest.tokenizer.fixture))
        if manifest.tokenizer.chat is not None:
            named.append(("`tokenizer`", manifest.tokenizer.chat.file))
    for adapter in manifest.separate_adapters().values():
        changed = {path for tensor in adapter.tensors for path in (tensor.file, tensor.data)}
        named += [(f"adapter `{adapter.name}`", path) for path in (adapter.file, *sorted(changed))]
    return named


def _check_unique(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _contradiction(f"two {kind}s are called `{name}`")


def _contradiction(what: str) -> InvalidInputError:
    return InvalidInputError("KX504", f"`{FILE_NAME}` contradicts itself: {what}", hint=_HINT_DAMAGED)


def _damaged(what: str) -> InvalidInputError:
    return InvalidInputError("KX502", f"`{FILE_NAME}` cannot be read: {what}", hint=_HINT_DAMAGED)
