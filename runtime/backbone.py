"""An opened backbone: called with KerasHub's inputs, it gives KerasHub's outputs as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy.typing as npt
from kexport.runtime.adapters import find_adapter
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.forward import Forward
from kexport.runtime.prompts import as_mask, check_capacity, check_whole, read_table

Array = npt.NDArray[Any]
_ENCODER = "encoder_"


class Backbone:
    """A backbone without a head. Close it, or use it in a `with` block, to give its memory back."""

    def __init__(self, forward: Forward, manifest: Manifest) -> None:
        self.forward, self.manifest = forward, manifest
        signature = forward.signature(names.BACKBONE)
        self._inputs = {spec.name: spec.dtype for spec in signature.inputs}
        self._outputs = [spec.name for spec in signature.outputs]

    def __call__(self, inputs: Mapping[str, Any]) -> Array | dict[str, Array]:
        """What `backbone(inputs)` gives: one array, or a dict by the original's output names.

        `inputs`: the original's own, tables [batch, length] of ids, and masks that are true on real ids. Raises InvalidInputError: KX520 for
        missing, unknown or misshapen tables, KX522 for ids that the model does not know, KX523 for rows longer than it serves.
        """
        outputs = self.forward.run(names.BACKBONE, self._read(inputs))
        return outputs[self._outputs[0]] if len(self._outputs) == 1 else outputs

    def embed(self, token_ids: Any) -> Array:
        """What the original's `token_embedding(token_ids)` gives: float32 [batch, length, hidden]. Raises as the call does, UnsupportedError KX572
        where the original has no such layer."""
        self.forward.signature(names.EMBED)
        return self.forward.run(names.EMBED, {names.TOKEN_IDS: self._table(names.TOKEN_IDS, token_ids)})[names.EMBEDDINGS]

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that is set."""
        return None if self.forward.adapter is None else self.forward.adapter.name

    def set_adapter(self, name: str | None) -> None:
        """Compute with the adapter called `name` from now on; None: as the base model. The weights it changes are loaded anew.

        Raises InvalidInputError (KX370) for a name that the artifact does not have, (KX371) where the adapter's file does not fit.
        """
        self.forward.set_adapter(find_adapter(self.manifest, name))

    def generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here. Raises UnsupportedError (KX512)."""
        raise not_generative(self.manifest)

    stream = compile = score = generate

    def close(self) -> None:
        """Give the memory back."""
        self.forward.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        if not isinstance(inputs, Mapping):
            raise InvalidInputError("KX520", f"a backbone takes a dict of arrays, not {type(inputs).__name__}", hint=f"it takes: {', '.join(self._inputs)}")
        missing = [name for name in self._inputs if name not in inputs] + [name for name in inputs if name not in self._inputs]
        if missing:
            what = "lack" if missing[0] in self._inputs else "have an unknown"
            raise InvalidInputError("KX520", f"the inputs {what} `{missing[0]}`", hint=f"the model takes: {', '.join(self._inputs)}")
        tables = {name: self._table(name, inputs[name]) for name in self._inputs}
        for side in (True, False):
            shapes = {name: table.shape for name, table in tables.items() if name.startswith(_ENCODER) is side}
            if len(set(shapes.values())) > 1:
                raise InvalidInputError("KX520", f"the inputs have different shapes: {', '.join(f'`{name}` {shape}' for name, shape in shapes.items())}")
        return tables

    def _table(self, name: str, values: Any) -> Array:
        table = read_table(values, name)
        encoder = name.startswith(_ENCODER) and self.manifest.cache.encoder_capacity
        check_capacity(table.shape[1], self.manifest.cache.encoder_capacity if encoder else self.manifest.cache.capacity, f"`{name}` is padded to")
        if self._inputs.get(name) == "bool":
            return as_mask(table, name)
        check_whole(table, name)
        self._check_range(name, table)
        return table

    def _check_range(self, name: str, table: Array) -> None:
        """Not every library says that an id has no row in its table; some read zeros."""
        sizes = {"segment_ids": self.manifest.source.config.get("num_segments")}
        size = self.manifest.generation.vocabulary_size if name.endswith(names.TOKEN_IDS) else sizes.get(name)
        smallest, largest = int(table.min()), int(table.max())
        if smallest < 0 or (isinstance(size, int) and 0 < size <= largest):
            wrong = smallest if smallest < 0 else largest
            raise InvalidInputError("KX522", f"`{name}` holds the id {wrong}; the model has the ids 0 to {size - 1 if isinstance(size, int) else '...'}")


def not_generative(manifest: Manifest) -> UnsupportedError:
    """The error for a text asked of an artifact that has none to give."""
    return UnsupportedError("KX512", f"the artifact is a {manifest.task}, which does not generate text", hint="call it: runtime.load(ARTIFACT)(inputs)")
