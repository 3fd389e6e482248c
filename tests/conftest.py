"""How tests are shared out where several processes run them (`make test-slow`): a file stays together, because its fixtures convert models; so do the
files of the zoo, which look at the same artifacts."""

from __future__ import annotations

import pytest

ZOO_FILES = ("test_families.py", "test_zoo_samplers.py")


@pytest.hookimpl(tryfirst=True)  # in front of the plugin that reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the group that one process runs."""
    for item in items:
        group = "zoo" if item.path.name in ZOO_FILES else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
