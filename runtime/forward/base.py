"""What every runner of whole rows does: arrays in and out by the names of the signature. And the registry of runners."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.adapters import changed_tensors
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError, InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Adapter, Manifest, Signature
from kexport.runtime.engines.base import EngineOptions

Array = npt.NDArray[Any]


class Forward(ABC):
    """The signatures over whole rows of one artifact. Each is opened at its first call and kept; not safe for several threads at once."""

    def __init__(self, directory: Path, manifest: Manifest, options: EngineOptions) -> None:
        self.directory, self.manifest, self.options = directory, manifest, options
        self.adapter: Adapter | None = None
        self._is_open = True

    def signature(self, name: str) -> Signature:
        """The record of signature `name`. Raises UnsupportedError (KX572) where the artifact has none."""
        signature = self.manifest.signature(name)
        if signature is None:
            raise UnsupportedError("KX572", f"the artifact has no signature `{name}`", hint=f"convert again with --signatures {name}")
        return signature

    def run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Call signature `name`: its outputs by name, the caller's own. `feeds`: one array for each of its inputs, of any dtype that fits.

        Raises UnsupportedError (KX572) where the artifact has no such signature, InvalidInputError (KX550) after `close`, InternalError (KX556)
        where the library fails.
        """
        if not self._is_open:
            raise InvalidInputError("KX550", "the engine is closed", hint="load the artifact again")
        signature = self.signature(name)
        missing = [spec.name for spec in signature.inputs if spec.name not in feeds]
        if missing:
            raise InternalError("KX909", f"signature `{name}` wants `{missing[0]}`")
        return self.call(signature, {spec.name: np.ascontiguousarray(feeds[spec.name], numpy_dtype(spec.dtype)) for spec in signature.inputs})

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Compute with the adapter added to the weights, None: without one. Files that it changes are opened anew at their next call.

        Raises UnsupportedError (KX372) on a runner that cannot, InvalidInputError (KX371) where adapter and weights do not fit each other.
        """
        if adapter is self.adapter:
            return
        files = {tensor.file for chosen in (self.adapter, adapter) if chosen is not None for tensor in chosen.tensors}
        if adapter is not None:
            for file in files:
                for _ in changed_tensors(self.directory, adapter, file):  # a misfit is told before anything is given up
                    pass
        self.drop(files)
        self.adapter = adapter

    def drop(self, files: Container[str]) -> None:
        """Forget what was opened of these model files."""
        raise UnsupportedError("KX372", "this artifact's engine takes no adapters at run time", hint="convert with the adapter merged")

    @abstractmethod
    def call(self, signature: Signature, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run the library on arrays of the signature's own dtypes."""

    def close(self) -> None:
        """Give everything back."""
        self._is_open = False


Opener = Callable[[Path, Manifest, EngineOptions], Forward]
_OPENERS: dict[str, Opener] = {}


def register_forward(target: str) -> Callable[[Opener], Opener]:
    """Decorator for a runner's opener: it opens artifacts of `target`, which is also the file's name."""

    def register(opener: Opener) -> Opener:
        _OPENERS[target] = opener
        return opener

    return register


def open_forward(directory: Path, manifest: Manifest, options: EngineOptions) -> Forward:
    """The runner for an artifact of its target.

    Raises UnsupportedError: KX510 for a target without a runner, KX511 where its library is not installed.
    """
    target = manifest.target
    if target not in _OPENERS:
        try:
            importlib.import_module(f"{__package__}.{target}")
        except ModuleNotFoundError as error:
            if error.name == f"{__package__}.{target}":
                raise UnsupportedError("KX510", f"this kexport runs no whole rows of the target `{target}`") from error
            if (error.name or "").startswith("kexport"):
                raise  # ours: a bug, not a missing extra
            message = f"the `{target}` engine needs `{error.name}`, which is not installed"
            raise UnsupportedError("KX511", message, hint=f'pip install "kexport[{target}]"') from error
    return _OPENERS[target](directory, manifest, options)


def first_line(error: Exception) -> str:
    """What an error of a library says first, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]
