"""The op grammar. Every module of this folder defines ops; importing the package fills the table."""

import importlib
import pkgutil

from kexport.graphs.ops.spec import OPS, Evaluation, OpSpec, attribute, infer_types, spec_of

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["OPS", "Evaluation", "OpSpec", "attribute", "infer_types", "spec_of"]
