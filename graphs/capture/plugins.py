"""Adapters of other packages: what they name in the entry point group `kexport.adapters` is imported, and registers itself as our own adapters do.

    [project.entry-points."kexport.adapters"]
    my_family = "my_package.kexport_adapter"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from kexport.runtime.contract.errors import UnsupportedError

GROUP = "kexport.adapters"


def load_plugins() -> list[str]:
    """Import them all, in the order of their names; returns these.

    Raises:
        UnsupportedError: KX216, one of them cannot be imported; it names the plugin and its package.
    """
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in found:
        _load(entry)
    return [entry.name for entry in found]


def _load(entry: EntryPoint) -> None:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    try:
        entry.load()
    except Exception as error:  # whatever a foreign module raises: the user has to know whose it is
        raise UnsupportedError(
            "KX216",
            f"the adapter `{entry.name}` ({entry.value}) of the package `{package}` cannot be loaded: {type(error).__name__}: {error}",
            hint=f"update or uninstall {package}",
            detail=repr(error),
        ) from error
