"""Lowerings, one op or one kind of op a file; importing the folder fills `LOWERINGS`."""

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
