"""Intrinsics -> plain ops, one intrinsic a file: what lets a target without a native form run them all.

    decompose(graph, keep={"attention", "linear"})      everything else that has a rule becomes plain ops, in place

An op's rule gives the numbers of its entry in the op table, for every form the op has. `cache_write` and `cache_read` have no rule: they
are what is left of a cache. A new rule is a new file here.
"""

import importlib
import pkgutil

from kexport.graphs.passes.decompose.pass_ import Decompose, decompose
from kexport.graphs.passes.decompose.registry import DECOMPOSITIONS

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["DECOMPOSITIONS", "Decompose", "decompose"]
