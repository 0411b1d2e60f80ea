"""Nested values, as JSON and YAML hold them, walked in one way: place by place, two at a time."""

from collections.abc import Iterator
from typing import Any

Place = tuple[str, ...]  # keys of mappings and numbers in lists, from the outermost


def pairs(one: Any, other: Any, place: Place = ()) -> Iterator[tuple[Place, Any, Any]]:
    """(place, value, other value) of each place that either has, None for what one has not; lists of unlike lengths are one place."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys(), key=str):
            yield from pairs(one.get(key), other.get(key), (*place, str(key)))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from pairs(a, b, (*place, str(i)))
    else:
        yield place, one, other


def leaves(value: Any) -> Iterator[tuple[Place, Any]]:
    """(place, value) of everything in a nested value that is no mapping and no list."""
    return ((place, of) for place, of, _ in pairs(value, value))


def differences(one: Any, other: Any) -> Iterator[tuple[Place, Any, Any]]:
    """The places at which two nested values differ."""
    return (found for found in pairs(one, other) if found[1] != found[2] or type(found[1]) is not type(found[2]))


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
