"""Adapters of families that the installed KerasHub does not have are left out; the others are there."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module, to be found on the path, that imports what the test asks for."""
    name = "adapter_of_" + request.param.replace(".", "_")
    (tmp_path / f"{name}.py").write_text(f"import {request.param}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("adapter", ["keras_hub.src.models.family_to_come.attention"], indirect=True)
def test_an_adapter_of_an_absent_family_is_left_out(adapter: str) -> None:
    """Whatever file of the family it imports: the package is what is missing."""
    from kexport.graphs.capture.adapters import register

    assert register(adapter) is False


@pytest.mark.parametrize("adapter", ["keras_hub.src.models.falcon.falcon_attention"], indirect=True)
def test_an_adapter_of_a_family_that_is_there_is_registered(adapter: str) -> None:
    """Otherwise the test above would prove nothing."""
    from kexport.graphs.capture.adapters import register

    assert register(adapter) is True


@pytest.mark.parametrize(
    "adapter", ["keras_hub.src.models.falcon.moved_attention", "keras_hub.src.layers.moved", "package_that_nobody_has"], indirect=True
)
def test_every_other_missing_module_is_an_error(adapter: str) -> None:
    """A file that moved inside a family that is there must not cost the family its adapter in silence."""
    from kexport.graphs.capture.adapters import register

    with pytest.raises(ModuleNotFoundError):
        register(adapter)


def test_none_of_our_own_is_left_out() -> None:
    """Under every release that is tested: each family with an adapter is there."""
    from kexport.graphs.capture import adapters

    names = [module.name for module in pkgutil.iter_modules(adapters.__path__)]
    assert len(names) > 10 and all(f"{adapters.__name__}.{name}" in sys.modules for name in names)
