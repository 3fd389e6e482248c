"""How tests are shared out where several processes run them (`make test-slow`): a file stays together, because its fixtures convert models; so do the
files of the zoo, which look at the same artifacts."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

ZOO_FILES = ("test_families.py", "test_zoo_samplers.py")


@pytest.hookimpl(optionalhook=True)  # of a plugin that a single process does without
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By names alone: marks of groups, which xdist 3.8 writes into node ids, get lost under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class FilesTogether(LoadScopeScheduling):
        """One process runs all tests of a file, or of the zoo's files."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "the zoo" if PurePosixPath(file).name in ZOO_FILES else file

    return FilesTogether(config, log)
