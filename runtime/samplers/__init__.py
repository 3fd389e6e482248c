"""KerasHub's samplers in numpy: the same names, arguments, defaults, and the same tokens for the same seed.

samplers.get("top_k")                                   a name
samplers.get({"class_name": "TopKSampler", "config": {"k": 3}})
samplers.get(samplers.TopKSampler(k=3, seed=1))         ours
samplers.get(keras_hub.samplers.TopKSampler(k=3))       KerasHub's own, read by class name and `get_config()`
samplers.get(MySampler())                               your own: an object with `next(logits, step, rng) -> token ids`
"""

from __future__ import annotations

from typing import Any

from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.samplers.base import Sampler, registered_samplers
from kexport.runtime.samplers.beam import BeamSampler
from kexport.runtime.samplers.contrastive import ContrastiveSampler
from kexport.runtime.samplers.custom import CustomSampler, TokenSampler
from kexport.runtime.samplers.greedy import GreedySampler
from kexport.runtime.samplers.random import RandomSampler
from kexport.runtime.samplers.top_k import TopKSampler
from kexport.runtime.samplers.top_p import TopPSampler

__all__ = [
    "BeamSampler", "ContrastiveSampler", "CustomSampler", "GreedySampler", "RandomSampler", "Sampler", "TokenSampler", "TopKSampler",
    "TopPSampler", "get",
]  # fmt: skip

_KERAS_HUB_PACKAGE = "keras_hub"
_NOT_BUILT = {"speculative": "SpeculativeSampler"}


def get(identifier: Any) -> Sampler:
    """The sampler that a name, a config dict, a sampler of ours, one of KerasHub's own, or a `TokenSampler` stands for.

    Raises InvalidInputError: KX530 for a name that is no sampler, KX532 for arguments that do not fit. UnsupportedError (KX531) for a
    sampler of KerasHub's that is not built, and for a Keras class of somebody's own: its code cannot leave Keras.
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, str):
        return _make(_class_of_name(identifier), {})
    if isinstance(identifier, dict):
        return _from_config(identifier)
    if not isinstance(identifier, type) and callable(getattr(identifier, "next", None)):
        return CustomSampler(identifier)
    return _from_keras_hub(identifier)


def _class_of_name(name: str) -> type[Sampler]:
    known = registered_samplers()
    if name in known:
        return known[name]
    if name in _NOT_BUILT:
        raise _not_supported(_NOT_BUILT[name])
    raise InvalidInputError("KX530", f"there is no sampler {name!r}", hint=f"known: {', '.join(sorted(known))}")


def _class_of_class_name(class_name: str) -> type[Sampler]:
    for sampler_class in registered_samplers().values():
        if sampler_class.__name__ == class_name:
            return sampler_class
    if class_name in registered_samplers() or class_name in _NOT_BUILT:
        return _class_of_name(class_name)  # KerasHub takes {"class_name": "top_k"}, too
    raise _not_supported(class_name)


def _from_config(config: dict[str, Any]) -> Sampler:
    class_name = config.get("class_name")
    arguments = config.get("config", {})
    if not isinstance(class_name, str) or not isinstance(arguments, dict):
        hint = 'for example {"class_name": "TopKSampler", "config": {"k": 5}}'
        raise InvalidInputError("KX530", "a sampler's config needs `class_name` and `config`", hint=hint)
    package, separator, short_name = class_name.rpartition(">")
    if separator and package != _KERAS_HUB_PACKAGE:
        raise _not_supported(class_name)
    return _make(_class_of_class_name(short_name), arguments)


def _from_keras_hub(sampler: Any) -> Sampler:
    """A sampler object of KerasHub's, known by its class's name and module; KerasHub is not imported."""
    kind = type(sampler)
    if not callable(getattr(sampler, "get_config", None)):
        raise InvalidInputError("KX530", f"{kind.__name__} is not a sampler", hint=f"known: {', '.join(sorted(registered_samplers()))}")
    if kind.__module__.partition(".")[0] != _KERAS_HUB_PACKAGE:
        raise _not_supported(kind.__name__)
    return _make(_class_of_class_name(kind.__name__), sampler.get_config())


def _make(sampler_class: type[Sampler], arguments: dict[str, Any]) -> Sampler:
    try:
        return sampler_class(**arguments)
    except TypeError as error:
        raise InvalidInputError("KX532", f"{sampler_class.__name__} does not take these arguments: {error}") from error


def _not_supported(name: str) -> UnsupportedError:
    known = ", ".join(sorted(registered_samplers()))
    hint = f"give an object with `next(logits, step, rng)` that returns token ids (docs/samplers.md), or use one of: {known}"
    return UnsupportedError("KX531", f"the sampler {name} is not supported outside Keras", hint=hint)
