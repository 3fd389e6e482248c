"""The zoo's artifacts, converted and proven once a process, for every test that looks at them."""

from __future__ import annotations

from typing import Any

import pytest

CAPACITY = 48


@pytest.fixture(scope="session")
def zoo_outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """variant of the zoo -> its outcomes by target."""
    made: dict[str, dict[str, Any]] = {}

    def get(name: str) -> dict[str, Any]:
        if name not in made:
            from kexport.converter.conversion import convert_all

            from tests.zoo import ZOO

            folder = tmp_path_factory.mktemp("family")
            made[name] = {one.target: one for one in convert_all(ZOO[name].build(), "all", folder, max_length=CAPACITY)}
        return made[name]

    return get
