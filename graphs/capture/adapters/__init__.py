"""Families whose attention is inlined in `call` and cannot be found generically: one small file each, registered as an interceptor."""

import importlib
import pkgutil
import re

_FAMILY = re.compile(r"keras_hub\.src\.models\.\w+")  # its package; a file in it that moved is another matter


def register(module: str) -> bool:
    """Import the module of an adapter; False where the installed KerasHub does not have its family yet, and nothing is to be adapted.

    Every other error is raised: a family that is there and left without its adapter would be captured as something else.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if _FAMILY.fullmatch(error.name or ""):
            return False
        raise
    return True


for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    register(f"{__name__}.{_module}")
