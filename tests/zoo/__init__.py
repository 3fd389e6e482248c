"""Small models of every family, a group of families a file: each module of this folder that has `VARIANTS` adds to the zoo. No Keras at import.

    task = ZOO["qwen3"].build()
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.zoo.variant import Variant

ZOO: dict[str, Variant] = {}
for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    for _name, _variant in getattr(importlib.import_module(f"{__name__}.{_module}"), "VARIANTS", {}).items():
        assert _name not in ZOO, f"two models of the zoo are called {_name}"
        ZOO[_name] = _variant

__all__ = ["ZOO", "Variant"]
