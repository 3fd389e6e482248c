"""Convert KerasHub models into artifacts.

    from kexport.converter import convert
    artifact = convert("my_preset", target="onnx", output="OUT")      # or a live keras_hub model

Importing this package imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kexport.converter.artifact import Artifact as Artifact
    from kexport.converter.conversion import convert as convert
    from kexport.converter.conversion import convert_all as convert_all

__all__ = ["Artifact", "convert", "convert_all"]

_HOMES = {"convert": "conversion", "convert_all": "conversion", "Artifact": "artifact"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
