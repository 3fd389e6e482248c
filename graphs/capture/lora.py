"""LoRA in Keras layers: which layers have it, what it adds to which parameter, and the model without it.

A graph is captured without adapters: they are low-rank updates of parameters (graphs/low_rank.py), which its weights bring along. So a
merged artifact has the base model's operators and no others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from kexport.graphs.capture.names import ParameterNames
from kexport.graphs.capture.patching import Patches
from kexport.graphs.low_rank import LowRank, Reader
from kexport.runtime.contract.errors import UnsupportedError

# Keras's names: the parameter that is updated, then its two factors.
_FACTORS = (("_kernel", "lora_kernel_a", "lora_kernel_b"), ("_embeddings", "lora_embeddings_a", "lora_embeddings_b"))
_SWITCH = "lora_enabled"


def lora_layers(model: Any) -> list[Any]:
    """The layers of a model with LoRA enabled, each once."""
    return list({id(layer): layer for layer in model._flatten_layers() if getattr(layer, _SWITCH, False)}.values())


@contextlib.contextmanager
def without_lora(model: Any) -> Iterator[None]:
    """Inside, the model computes without its adapters; their variables are not touched."""
    with Patches() as patches:
        for layer in lora_layers(model):
            patches.replace(layer, _SWITCH, False)
        yield


def low_rank_updates(model: Any) -> dict[str, LowRank]:
    """What the model's adapters add, by parameter name; the factors are read from its variables when asked for.

    Raises:
        UnsupportedError: an adapter beside a quantized parameter, or of a kind of layer that is not known here.
    """
    names = ParameterNames(model.variables)
    return {names.of(updated_variable(layer)): _update(layer) for layer in lora_layers(model)}


def updated_variable(layer: Any) -> Any:
    """The variable of `layer` that its adapter updates.

    Raises:
        UnsupportedError: as `low_rank_updates`.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedError(
            "KX366",
            f"the layer `{layer.path}` is quantized ({layer.quantization_mode}) and has an adapter",
            hint="convert the model before it is quantized",
        )
    kernel = next((getattr(layer, name, None) for name, *_ in _FACTORS if getattr(layer, name, None) is not None), None)
    if kernel is None:
        raise UnsupportedError("KX366", f"`{type(layer).__name__}` layers with adapters are not supported (`{layer.path}`)")
    return kernel


def _update(layer: Any) -> LowRank:
    a, b = next((getattr(layer, a), getattr(layer, b)) for _, a, b in _FACTORS if hasattr(layer, a))
    return LowRank(_reader(a), _reader(b), layer.lora_alpha / layer.lora_rank)


def _reader(variable: Any) -> Reader:
    return lambda: np.asarray(variable.value)
