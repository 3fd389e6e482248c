"""One file for each op, or group of like ops, that is rendered in its own way; importing the package fills the table."""

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
