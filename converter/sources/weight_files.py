"""What a Keras weights file holds, from its headers alone: path -> shape and dtype. No tensor is read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kexport.converter.sources.documents import read_document
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

_AGAIN_HINT = "the file is damaged: fetch or save it again"
LEGACY_ROOT = "_layer_checkpoint_dependencies"
_NOT_A_WEIGHT = "seed_generator"
_BESIDE_THE_MODEL = "optimizer/"


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one model: `shapes` and `dtypes` by path inside the file (`layers/dense/vars/0`)."""

    paths: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @property
    def parameter_count(self) -> int:
        """How many numbers the model's variables hold (random states and optimizer slots aside)."""
        return sum(
            math.prod(shape) for path, shape in self.shapes.items() if _NOT_A_WEIGHT not in path and not path.startswith(_BESIDE_THE_MODEL)
        )

    @property
    def is_legacy(self) -> bool:
        """Whether the file is older than Keras 3, whose groups have other names (and may hold more than the variables)."""
        return any(path.startswith(LEGACY_ROOT) for path in self.shapes)

    @property
    def dtype(self) -> str:
        """The dtype most of the numbers are stored in, "" for an empty file."""
        sizes: Counter[str] = Counter()
        for path, shape in self.shapes.items():
            sizes[self.dtypes[path]] += math.prod(shape)
        return sizes.most_common(1)[0][0] if sizes else ""


def read_weight_files(path: Path) -> WeightFiles:
    """Headers of `model.weights.h5`, or of all shards that `model.weights.json` names.

    Raises:
        InvalidInputError: KX420 a shard is missing, KX421 not a readable HDF5 file, KX427 links that leave the file.
    """
    shards = _shards(path) if path.suffix == ".json" else (path,)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for shard in shards:
        _read_headers(shard, shard.name, shard.stat().st_size, shapes, dtypes)
    return WeightFiles(paths=shards, shapes=shapes, dtypes=dtypes)


def read_weight_stream(stream: IO[bytes], name: str, size: int, archive: Path) -> WeightFiles:
    """Headers of a weights file inside an archive. Errors as `read_weight_files`."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    _read_headers(stream, name, size, shapes, dtypes)
    return WeightFiles(paths=(archive,), shapes=shapes, dtypes=dtypes)


def shard_names(index: Path) -> tuple[str, ...]:
    """The shard files that a `model.weights.json` names, plain names only. Raises InvalidInputError KX411, KX427."""
    weight_map = read_document(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InvalidInputError("KX411", f"{index.name} has no weight_map", hint=_AGAIN_HINT)
    names = {name for value in weight_map.values() for name in (value if isinstance(value, list) else [value])}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InvalidInputError("KX427", f"{index.name} names the shard `{name}`, which is not a file beside it", hint=_AGAIN_HINT)
    return tuple(sorted(names))


def _shards(index: Path) -> tuple[Path, ...]:
    paths = tuple(index.parent / name for name in shard_names(index))
    for path in paths:
        if not path.is_file():
            raise InvalidInputError(
                "KX420", f"{path.name} is missing, which {index.name} names as a weights file", hint="copy all shards of the preset"
            )
    return paths


def _read_headers(file: Any, name: str, size: int, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str]) -> None:
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedError("KX402", "reading Keras weights needs the package `h5py`", hint='pip install "kexport[convert]"') from error

    def visit(path: str, node: Any) -> None:
        if isinstance(node, h5py.Group):
            _refuse_links(node, name)
            return
        _refuse_outside_data(node, path, name, size)
        shapes[path] = tuple(int(length) for length in node.shape or ())
        dtypes[path] = str(node.attrs.get("dtype", node.dtype))

    def _refuse_links(group: Any, name: str) -> None:
        for child in group:
            if not isinstance(group.get(child, getlink=True), h5py.HardLink):
                raise InvalidInputError(
                    "KX427", f"{name}: `{group.name}/{child}` is a link that may leave the file", hint="save the weights again with Keras"
                )

    try:
        with h5py.File(file, "r") as opened:
            _refuse_links(opened, name)
            opened.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError("KX421", f"{name} is not a whole HDF5 file: {error}", hint=_AGAIN_HINT) from error


def _refuse_outside_data(dataset: Any, path: str, name: str, size: int) -> None:
    if dataset.external or dataset.is_virtual:
        raise InvalidInputError("KX427", f"{name}: `{path}` keeps its data in another file", hint="save the weights again with Keras")
    offset = dataset.id.get_offset()
    if offset is not None and offset + dataset.id.get_storage_size() > size:
        raise InvalidInputError("KX421", f"{name} ends before the data of `{path}`", hint=_AGAIN_HINT)
