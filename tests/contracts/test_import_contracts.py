"""The import contracts of pyproject.toml name modules; a new module must not slip past them."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import kexport.graphs
import kexport.runtime
import pytest

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def contracts() -> dict[str, Any]:
    """The contracts by name."""
    settings = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    return {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


def modules(package: Any, without: str) -> set[str]:
    """The modules directly below a package, but one."""
    names = {f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)}
    return names - {f"{package.__name__}.{without}"}


@pytest.mark.parametrize("start", ["runtime.contract is a leaf", "Of the runtime, targets and graphs use"])
def test_all_of_the_runtime_is_named(start: str) -> None:
    """What the leaf, the graphs and the targets must not import is all of the runtime but its contract."""
    (contract,) = [contract for name, contract in contracts().items() if name.startswith(start)]
    assert modules(kexport.runtime, "contract") <= set(contract["forbidden_modules"])


def test_all_graphs_but_capture_are_held_from_keras() -> None:
    """Every module of the graphs is a source of the contract that keeps Keras in `capture`."""
    (contract,) = [contract for name, contract in contracts().items() if name.startswith("Only graphs.capture")]
    assert modules(kexport.graphs, "capture") <= set(contract["source_modules"])
