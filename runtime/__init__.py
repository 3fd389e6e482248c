"""Run kexport artifacts: no Keras, no TensorFlow.

    from kexport import runtime

    lm = runtime.load("OUT")
    lm.generate("I want to say", max_length=30)
    lm.compile(sampler=runtime.samplers.TopKSampler(k=5, seed=1))
    for piece in lm.stream("I want to say", max_length=30): ...

Everything is imported when it is first used: reading a manifest (`kexport.runtime.contract`) needs neither numpy nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kexport.runtime import samplers as samplers
    from kexport.runtime.contract import errors as errors
    from kexport.runtime.language_model import LanguageModel as LanguageModel
    from kexport.runtime.loading import load as load

__all__ = ["LanguageModel", "errors", "load", "samplers"]

_HOMES = {
    "load": ("loading", "load"),
    "LanguageModel": ("language_model", "LanguageModel"),
    "samplers": ("samplers", ""),
    "errors": ("contract.errors", ""),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for. Raises UnsupportedError (KX511) where the engine extras are not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _HOMES[name]
    try:
        module = importlib.import_module(f"{__name__}.{module_name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kexport"):
            raise
        from kexport.runtime.contract.errors import UnsupportedError

        message = f"running artifacts needs `{error.name}`, which is not installed"
        raise UnsupportedError("KX511", message, hint='pip install "kexport[onnx]"') from error
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
