"""Writing a model: weights stream into `<file>.data` one tensor at a time, then the small proto beside it.

Tensors stand in the data file in the order of the graph's initializers, large ones on page boundaries so that they can be mapped.
While a tensor is in memory the caller's hook sees it, and the file's SHA-256 grows along: the bytes are touched once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from kexport.runtime.contract.manifest import File
from kexport.targets.base import TensorHook

INLINE_BYTES = 1024  # up to this size a tensor stays in the proto, which shape inference reads
SMALL_ALIGNMENT = 64
PAGE = 4096


class DataFile:
    """An external data file under construction."""

    def __init__(self, path: Path, on_tensor: TensorHook | None) -> None:
        self.path = path
        self._on_tensor = on_tensor
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._size = 0

    def append(self, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor; returns the reference to it."""
        self._write(b"\0" * (-self._size % (PAGE if tensor.nbytes >= PAGE else SMALL_ALIGNMENT)))
        offset = self._size
        array = np.asarray(tensor.numpy(), order="C")
        if self._on_tensor is not None:
            self._on_tensor(name, array)
        self._write(array.reshape(-1).view(np.uint8).data)
        return ir.ExternalTensor(
            self.path.name, offset, self._size - offset, tensor.dtype, shape=ir.Shape(array.shape), name=name, base_dir=self.path.parent
        )

    def close(self) -> File:
        """Finish. Returns the file's record."""
        self._file.close()
        return File(path=self.path.name, bytes=self._size, sha256=self._digest.hexdigest())

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)


def reuse(model: ir.Model, contents: Mapping[str, Any], written: Mapping[Any, ir.ExternalTensor]) -> None:
    """Let every initializer whose content another model of the same directory wrote already refer to that model's data file.

    `contents`: initializer name -> what it holds, a hashable reference; `written`: such references -> where they stand.
    """
    for name, value in model.graph.initializers.items():
        found = written.get(contents[name]) if not isinstance(contents[name], np.ndarray) else None
        if found is not None:
            value.const_value = ir.ExternalTensor(
                found.location, found.offset, found.length, found.dtype, shape=found.shape, name=name, base_dir=found.base_dir
            )


def external(model: ir.Model, contents: Mapping[str, Any]) -> Iterator[tuple[Any, ir.ExternalTensor]]:
    """What a written model keeps in a data file, and where: for `reuse`."""
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor) and not isinstance(contents[name], np.ndarray):
            yield contents[name], value.const_value


def write_model(model: ir.Model, path: Path, on_tensor: TensorHook | None = None, outside: Container[str] = ()) -> tuple[File, ...]:
    """Write `path` and, if any tensor is larger than a kilobyte or named in `outside`, `path` + `.data`. The model's tensors become
    references to the file.

    Returns the records of the files written. Raises OSError as the file system does.
    """
    data = DataFile(path.with_name(path.name + ".data"), on_tensor)
    try:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if isinstance(tensor, ir.ExternalTensor):
                continue  # another model's file holds it
            if tensor.nbytes > INLINE_BYTES or name in outside:
                value.const_value = data.append(name, tensor)
            else:
                value.const_value = ir.Tensor(np.asarray(tensor.numpy(), order="C"), dtype=tensor.dtype, name=name)
                if on_tensor is not None:
                    on_tensor(name, value.const_value.numpy())
    finally:
        written = data.close()
    proto = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    path.write_bytes(proto)
    files = (File(path=path.name, bytes=len(proto), sha256=hashlib.sha256(proto).hexdigest()),)
    if written.bytes:
        return (*files, written)
    data.path.unlink()
    return files
