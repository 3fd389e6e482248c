"""The manifest's records of what was written: files and cache slots."""

from __future__ import annotations

from pathlib import Path

from kexport.graphs.ir import Graph
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import Cache, File
from kexport.targets import geometry
from kexport.targets.savedmodel.interface import SlotNames

LAYOUT = ("batch", "key_value_heads", "capacity", "head_dim")


def files(directory: Path) -> tuple[File, ...]:
    """Every file of the SavedModel."""
    found = [directory / "saved_model.pb", *sorted((directory / "variables").iterdir())]
    return tuple(File(path=path.relative_to(directory).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path)) for path in found)


def cache(graph: Graph, slot_names: SlotNames, capacity: int) -> Cache:
    """The caches of `graph`."""
    return geometry.cache(graph, slot_names, graph.slots, capacity, LAYOUT)
