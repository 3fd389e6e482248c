"""Stock tasks of the seed models, built once; importing Keras waits until the first slow test."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.seed_models import MODELS


@pytest.fixture(scope="session")
def stock() -> Any:
    """The module that builds stock tasks."""
    from tests import stock_models

    return stock_models


@pytest.fixture(scope="session")
def task_of(stock: Any) -> Callable[[str], Any]:
    """Name -> the stock task with the model's numbers; tests leave it as they found it."""
    return functools.cache(lambda name: stock.build(MODELS[name]))


@pytest.fixture(scope="session")
def captured_of(task_of: Callable[[str], Any]) -> Callable[[str], Any]:
    """Name -> what `capture` gives for it."""
    from kexport.graphs.capture import capture

    return functools.cache(lambda name: capture(task_of(name)))
