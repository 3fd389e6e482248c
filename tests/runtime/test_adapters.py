"""Adapters at run time: their files are read with distrust, and an engine or artifact without them says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.runtime.adapters import changed_tensors, read_factors
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Adapter, AdapterPart, AdapterStep, AdapterTensor

from .gqa_model import write_decoder

A, B = np.arange(6, dtype="<f4").reshape(3, 2), np.ones((2, 4), "<f4")


def write_factors(path: Path, *, header: Any = None, data: bytes | None = None) -> Path:
    """A safetensors file with the factors `a` and `b`, or with another header or other data."""
    entries = {
        "__metadata__": {"made": "by hand"},
        "a": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [2, 4], "data_offsets": [24, 56]},
    }
    text = json.dumps(entries if header is None else header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + (A.tobytes() + B.tobytes() if data is None else data))
    return path


def adapter(directory: Path, **changes: Any) -> Adapter:
    """An adapter that adds a @ b to a tensor of zeros in the file `weights`, with changed records."""
    write_factors(directory / "x.safetensors")
    (directory / "weights").write_bytes(np.zeros((3, 4), "<f4").tobytes())
    part = {"a": "a", "b": "b", "scale": 2.0, **changes.pop("part", {})}
    tensor = {"file": "m", "name": "w", "dtype": "float32", "shape": (3, 4), "data": "weights", "offset": 0, "parts": (AdapterPart(**part),), **changes}
    return Adapter(name="x", source="x.lora.h5", digest="", rank=2, alpha=4.0, mode="separate", file="x.safetensors", tensors=(AdapterTensor(**tensor),))


def test_factors_are_read_and_added(tmp_path: Path) -> None:
    """The numbers of a file, and scale times their product where the manifest puts it."""
    ((tensor, array),) = changed_tensors(tmp_path, adapter(tmp_path), "m")
    assert tensor.name == "w" and np.array_equal(array, 2 * (A @ B)) and array.dtype == np.float32
    assert not list(changed_tensors(tmp_path, adapter(tmp_path), "another file"))


@pytest.mark.parametrize(
    "broken",
    [
        {"header": b"{"},
        {"header": b"[]"},
        {"header": b"[" * 100_000},
        {"header": {"a": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]}}},
        {"header": {"a": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 28]}}},
        {"header": {"a": {"dtype": "F32", "shape": [3, -2], "data_offsets": [0, 24]}}},
        {"header": {"a": {"dtype": "F32", "shape": [3, 2], "data_offsets": [-8, 16]}}},
        {"header": {"a": {"dtype": "F32", "shape": "xx", "data_offsets": [0, 24]}}},
        {"header": {"a": {}}},
        {"data": b"short"},
    ],
)
def test_a_damaged_file_is_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    """Headers that are no JSON or name what is not there, and files that were cut off."""
    with pytest.raises(InvalidInputError) as caught:
        read_factors(write_factors(tmp_path / "x.safetensors", **broken))
    assert caught.value.code == "KX371"


@pytest.mark.parametrize(
    "changes",
    [
        {"part": {"a": "missing"}},
        {"part": {"a": "b"}},
        {"part": {"steps": (AdapterStep(kind="reshape", numbers=(4, 3)),)}},
        {"part": {"steps": (AdapterStep(kind="reshape", numbers=(5, 5)),)}},
        {"part": {"steps": (AdapterStep(kind="transpose", numbers=(0, 0)),)}},
        {"part": {"steps": (AdapterStep(kind="pad", numbers=(0, 1 << 40, 0, 0)),)}},
        {"part": {"steps": (AdapterStep(kind="pad", numbers=(0, -1, 0, 0)),)}},
        {"part": {"steps": (AdapterStep(kind="pad", numbers=(0, 0, 0)),)}},
        {"offset": 8},
        {"offset": -4},
        {"shape": (1 << 20, 1 << 20)},
        {"shape": ()},
    ],
)
def test_records_that_do_not_fit_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Factors, places and sizes that contradict each other, before anything large is made."""
    with pytest.raises(InvalidInputError) as caught:
        list(changed_tensors(tmp_path, adapter(tmp_path, **changes), "m"))
    assert caught.value.code == "KX371"


def test_an_artifact_without_adapters_says_so(tmp_path: Path) -> None:
    """Setting None is nothing; any name is unknown, and the hint says how adapters come in."""
    write_decoder(tmp_path)
    with runtime.load(tmp_path, preprocessor=None, allow_unverified=True) as model:
        model.set_adapter(None)
        with pytest.raises(InvalidInputError) as caught:
            model.set_adapter("x")
    assert caught.value.code == "KX370" and "--lora-mode separate" in caught.value.hint
