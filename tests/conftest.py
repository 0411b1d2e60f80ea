"""What holds for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("everywhere", deadline=None)  # how long an example takes on a busy machine decides nothing
settings.load_profile("everywhere")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """A file's tests stay in one process, and those of a group of files: what a fixture builds for all of them is built once."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    yield
    if config.getoption("loadgroup", False):  # in a worker, under `--dist loadgroup`
        lost = [item.nodeid for item in items if "@" not in item.nodeid.rpartition("]")[2]]
        assert not lost, f"pytest-xdist leaves no group in {lost[0]}: its groups work with pytest below 9.2"
