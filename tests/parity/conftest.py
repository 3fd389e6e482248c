"""The zoo's artifacts, converted and proven once a process, for every test that looks at them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

CAPACITY = 48


@pytest.fixture(scope="session")
def zoo_outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """variant of the zoo -> its outcomes by target; what speaks (tests/text_zoo.py) with its tokenizer and hidden states."""

    @functools.cache
    def get(name: str) -> dict[str, Any]:
        from kexport.converter.conversion import convert_all

        from tests.text_zoo import SPEAKING, build

        signatures = ("hidden_states",) if name in SPEAKING else ()
        folder = tmp_path_factory.mktemp("family")
        return {one.target: one for one in convert_all(build(name), "all", folder, max_length=CAPACITY, signatures=signatures)}

    return get
