"""Of many like cases, which run in `make test`: its twenty minutes are kept, and `make test-all` runs them all."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_after(n: int, values: Iterable[Any]) -> list[Any]:
    """The first `n` in `make test`, all in `make test-all`."""
    kept = list(values)
    marked = (value if isinstance(value, tuple) else (value,) for value in kept[n:])
    return [*kept[:n], *(pytest.param(*value, marks=pytest.mark.slow) for value in marked)]
