"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

settings.register_profile("everywhere", deadline=None)  # how long an example takes on a busy machine decides nothing
settings.load_profile("everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Suites that are built once for a group of tests are built once only if the group stays in one process."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        lost = [item.nodeid for item in items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]]
        assert not lost, f"pytest-xdist leaves no group in {lost[0]}: its groups work with pytest below 9.2"
