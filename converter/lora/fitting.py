"""An adapter file on a model: which parameter each of its layers updates, and the model with the file loaded by KerasHub itself.

A file knows layers by their index among the backbone's layers with weights, as `load_lora_weights` counts them. From the layers at these
indices follow the names that `enable_lora` was called with; KerasHub must then enable exactly these layers, else the file is another
model's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kexport.converter.lora.files import A, B, LoraFile
from kexport.converter.sources.base import backbone_of
from kexport.graphs.low_rank import LowRank
from kexport.runtime.contract.errors import InvalidInputError

_ENABLED = "_lora_enabled_layers"
_OF_THE_BACKBONE = (_ENABLED, "_lora_rank")
_OF_A_LAYER = ("lora_enabled", "lora_rank", "lora_alpha")
_ANOTHER_MODEL = "give the adapter of this model, or the model that the adapter was trained on"


def fit(file: LoraFile, task: Any) -> dict[str, LowRank]:
    """What the file adds to which parameter of `task`, by parameter name. Reads shapes only, so that abstract models do as well.

    Raises:
        InvalidInputError: KX361 the model has LoRA of another rank, KX362 the file belongs to another model.
        UnsupportedError: KX366, a quantized layer.
    """
    from kexport.graphs.capture.lora import updated_variable
    from kexport.graphs.capture.names import ParameterNames

    names = ParameterNames(task.variables)
    backbone = backbone_of(task)
    layers = _indexed_layers(backbone)
    _check_layers(file, backbone, layers)
    updates = {}
    for index, (a, b) in file.shapes.items():
        layer = layers[index]
        kernel = updated_variable(layer)
        if (*a[:-1], b[-1]) != tuple(kernel.shape):
            raise InvalidInputError(
                "KX362",
                f"`{file.path.name}` does not fit the model: its layer {index} updates a kernel of {[*a[:-1], b[-1]]}, `{layer.path}` has {list(kernel.shape)}",
                hint=_ANOTHER_MODEL,
            )
        updates[names.of(kernel)] = file.update(index, layer.lora_alpha / layer.lora_rank if layer.lora_enabled else 1.0)
    return updates


@contextlib.contextmanager
def applied(file: LoraFile, task: Any) -> Iterator[None]:
    """Inside, `task` has the file loaded by KerasHub's own `enable_lora` and `load_lora_weights`; it is as it was after that."""
    backbone = backbone_of(task)
    enabled = bool(getattr(backbone, _ENABLED, []))
    with _factors_kept(backbone) if enabled else _lora_removed_after(backbone):
        if not enabled:
            backbone.enable_lora(file.rank, target_layer_names=_target_names(file, _indexed_layers(backbone)))
        backbone.load_lora_weights(str(file.path))
        yield


def _indexed_layers(backbone: Any) -> list[Any]:
    """The layers that KerasHub counts."""
    return [layer for layer in backbone._flatten_layers(include_self=False) if layer.weights]


def _target_names(file: LoraFile, layers: list[Any]) -> list[str]:
    return sorted({layers[index].name for index in file.shapes})


def _check_layers(file: LoraFile, backbone: Any, layers: list[Any]) -> None:
    wrong = [index for index in file.shapes if index >= len(layers) or not hasattr(layers[index], "enable_lora")]
    if wrong:
        what = f"`{layers[wrong[0]].path}`, which takes none" if wrong[0] < len(layers) else f"missing: there are {len(layers)}"
        raise InvalidInputError(
            "KX362", f"`{file.path.name}` does not fit the model: it adapts layer {wrong[0]}, which is {what}", hint=_ANOTHER_MODEL
        )
    expected = _expected_layers(file, backbone, layers)
    if sorted(file.shapes) != expected:
        raise InvalidInputError(
            "KX362",
            f"`{file.path.name}` does not fit the model: it adapts the layers {sorted(file.shapes)}, where the model has {expected}",
            hint=_ANOTHER_MODEL,
        )


def _expected_layers(file: LoraFile, backbone: Any, layers: list[Any]) -> list[int]:
    """The indices that KerasHub has enabled, or would enable for the names of the file's layers."""
    if enabled := getattr(backbone, _ENABLED, []):
        if backbone._lora_rank != file.rank:
            raise InvalidInputError(
                "KX361",
                f"`{file.path.name}` has rank {file.rank}, the model was given LoRA of rank {backbone._lora_rank}",
                hint="call enable_lora() with the file's rank, or give the model without LoRA",
            )
        return sorted(enabled)
    names = _target_names(file, layers)
    return [index for index, layer in enumerate(layers) if layer.name in names and hasattr(layer, "enable_lora")]


@contextlib.contextmanager
def _factors_kept(backbone: Any) -> Iterator[None]:
    """The numbers of adapters that are there already come back."""
    from kexport.graphs.capture.lora import lora_layers

    found = [(variable, variable.numpy().copy()) for layer in lora_layers(backbone) for variable in _factors(layer)]
    try:
        yield
    finally:
        for variable, numbers in found:
            variable.assign(numbers)


def _factors(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in (A, B) if hasattr(layer, name)]


@contextlib.contextmanager
def _lora_removed_after(backbone: Any) -> Iterator[None]:
    """What `enable_lora` changes is undone: the switches and variables of layers, and what is trainable."""
    layers = [backbone, *backbone._flatten_layers(include_self=False)]
    switches = [(layer, {name: vars(layer)[name] for name in _OF_A_LAYER if name in vars(layer)}) for layer in layers]
    trainable = [(layer, layer._trainable, [(v, v.trainable) for v in layer._trainable_variables]) for layer in layers]
    known = {name: vars(backbone)[name] for name in _OF_THE_BACKBONE if name in vars(backbone)}
    try:
        yield
    finally:
        for layer, values in switches:
            for name in [name for name in (A, B) if getattr(layer, "lora_enabled", False) and hasattr(layer, name)]:
                delattr(layer, name)
            for name, value in values.items():
                setattr(layer, name, value)
        for name in _OF_THE_BACKBONE:
            setattr(backbone, name, known[name]) if name in known else _delete(backbone, name)
        for layer, flag, variables in trainable:
            layer._trainable = flag
            for variable, was in variables:
                variable.trainable = was


def _delete(owner: Any, name: str) -> None:
    if name in vars(owner):
        delattr(owner, name)
