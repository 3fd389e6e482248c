"""A file of KerasHub's `save_lora_weights`: checked from its headers and its small factors, without Keras.

Such a file holds `lora/vars/rank` and, for each layer by its index, `lora/<index>/vars/lora_kernel_a` and `lora_kernel_b`. It says neither
which model it belongs to nor what its layers are called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.sources.weight_files import read_weight_files
from kexport.graphs.low_rank import LowRank
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.files import sha256_file
from numpy.typing import NDArray

A, B = "lora_kernel_a", "lora_kernel_b"
_RANK = "lora/vars/rank"
_FACTOR = re.compile(rf"lora/(\d+)/vars/({A}|{B})")
_SAVE_AGAIN = "give a file that `backbone.save_lora_weights()` wrote"
_SUFFIXES = (".lora.h5", ".h5")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class LoraFile:
    """A checked file. `shapes`: index of a layer -> the shapes of its a [..., rank] and b [rank, out]. `digest`: SHA-256 of the file."""

    path: Path
    rank: int
    shapes: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]
    digest: str

    def update(self, index: int, scale: float) -> LowRank:
        """What the file adds to the kernel of layer `index`; its factors are read when asked for."""
        return LowRank(lambda: self.factor(index, A), lambda: self.factor(index, B), scale)

    def factor(self, index: int, name: str) -> NDArray[Any]:
        """One factor, float32."""
        import h5py

        with h5py.File(self.path, "r") as opened:
            return np.asarray(opened[f"lora/{index}/vars/{name}"], np.float32)


def adapter_name(path: str | Path) -> str:
    """What the adapter in a file is called: the file's name without its ending, in characters that any file system takes."""
    name = Path(path).name
    stem = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
    return _NOT_IN_A_NAME.sub("_", stem).strip(".")[:_LONGEST_NAME] or "adapter"


def read_lora_file(path: str | Path) -> LoraFile:
    """Check a file and tell what is in it. Reads its factors once.

    Raises:
        InvalidInputError: KX360 not such a file, KX361 ranks that contradict each other, KX363 no adapter in it, KX364 adapters that change
            nothing, KX425 numbers that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError("KX360", f"there is no adapter file `{path}`", hint=_SAVE_AGAIN)
    try:
        headers = read_weight_files(path).shapes
    except InvalidInputError as error:
        raise InvalidInputError("KX360", f"`{path.name}` cannot be read as an adapter: {error.message}", hint=_SAVE_AGAIN) from error
    if not any(name.startswith("lora/") for name in headers):
        raise InvalidInputError("KX360", f"`{path.name}` is no adapter file: nothing in it is called `lora/...`", hint=_SAVE_AGAIN)
    shapes = _factor_shapes(path.name, headers)
    if not shapes:
        raise InvalidInputError("KX363", f"`{path.name}` holds no adapter", hint="call enable_lora() and train before save_lora_weights()")
    file = LoraFile(path, _rank(path, headers), shapes, f"sha256:{sha256_file(path)}")
    _check_ranks(file)
    _check_numbers(file)
    return file


def _factor_shapes(name: str, headers: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    indices = sorted({int(match[1]) for path in headers if (match := _FACTOR.fullmatch(path))})
    found = {}
    for index in indices:
        a, b = (headers.get(f"lora/{index}/vars/{factor}") for factor in (A, B))
        if a is None or b is None:
            raise InvalidInputError("KX360", f"`{name}` has one factor only of layer {index}", hint=_SAVE_AGAIN)
        found[index] = (a, b)
    return found


def _rank(path: Path, headers: Mapping[str, tuple[int, ...]]) -> int:
    import h5py

    if headers.get(_RANK) != ():
        raise InvalidInputError("KX360", f"`{path.name}` does not say its rank", hint=_SAVE_AGAIN)
    with h5py.File(path, "r") as opened:
        return int(opened[_RANK][()])


def _check_ranks(file: LoraFile) -> None:
    for index, (a, b) in file.shapes.items():
        if not a or len(b) != 2 or a[-1] != file.rank or b[0] != file.rank:
            raise InvalidInputError(
                "KX361",
                f"`{file.path.name}` says rank {file.rank}; its layer {index} has factors of {list(a)} and {list(b)}",
                hint="the file was edited or put together from several: save the adapter again",
            )


def _check_numbers(file: LoraFile) -> None:
    from kexport.converter.checks import check_finite

    changes = False
    for index in file.shapes:
        a, b = file.factor(index, A), file.factor(index, B)
        for name, array in ((A, a), (B, b)):
            check_finite(f"{file.path.name}: lora/{index}/{name}", array)
        changes = changes or bool(a.any() and b.any())
    if not changes:
        raise InvalidInputError(
            "KX364", f"`{file.path.name}` changes nothing: all its updates are zero", hint="train the adapter before saving it, or convert without it"
        )
