"""Families whose attention is inlined in `call` and cannot be found generically: one small file each, registered as an interceptor."""

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
