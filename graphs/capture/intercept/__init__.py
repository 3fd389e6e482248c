"""What is intercepted while stock code is traced: each module replaces a few generic methods, none a model's.

A module registers one installer with `@interceptor`. While a marker's body is traced nothing is intercepted.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator

from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace

Installer = Callable[[Trace, Patches], None]
INTERCEPTORS: dict[str, Installer] = {}


_INNERMOST: set[str] = set()


def interceptor(name: str, *, innermost: bool = False) -> Callable[[Installer], Installer]:
    """Register an installer under a name (the intrinsic it finds). `innermost`: what it puts in place is stock code to the others, which replace it in turn."""

    def register(installer: Installer) -> Installer:
        INTERCEPTORS[name] = installer
        if innermost:
            _INNERMOST.add(name)
        return installer

    return register


@contextlib.contextmanager
def intercepting(trace: Trace, *, without: frozenset[str] = frozenset()) -> Iterator[None]:
    """Everything intercepted inside, everything restored after, errors included. `without` leaves some as plain ops."""
    with Patches() as patches:
        for name in sorted(INTERCEPTORS, key=lambda name: name not in _INNERMOST):
            if name not in without:
                INTERCEPTORS[name](trace, patches)
        yield


for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
