"""Lowerings that are not one to one, one op a file. Importing the package fills `kexport.targets.openvino.lowering.LOWERINGS`."""

import importlib
import pkgutil

import kexport.targets.openvino.plain  # noqa: F401

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
