"""TensorFlow function -> Graph: the importer and one rule per TensorFlow op type."""

import importlib
import pkgutil

from kexport.graphs.capture.importing.importer import import_function

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["import_function"]
