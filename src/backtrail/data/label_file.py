"""The label file of EDM's archives, `dataset.json`: read pair by pair, whatever it holds."""

import json
import re
from collections.abc import Iterator

import numpy as np

from backtrail.data.archives import LABEL_FILE, NAME_BYTES, Members, labels_limit
from backtrail.errors import UserError

MAX_CLASSES = 100_000  # as many as a network may have
SHOWN = 80


def labels_from_file(members: Members, rows: np.ndarray, place: int, root: bytes = b"") -> tuple[np.ndarray, int]:
    """Labels int64 [n] of the images `rows`, and the number of classes (0 = none), by the label file at `place`.

    Its names are those below `root`. Raises UserError unless it labels images that are there, each one once, and all of `rows`.
    """
    labels = np.full(len(members.names), -1, np.int64)
    data, limit = members.read(place), labels_limit(len(members.names))
    if len(data) > limit:
        raise UserError(f"{members.path}: {LABEL_FILE} has {len(data)} bytes, labels of {len(members.names)} files have at most {limit}")
    pairs = _pairs(data, f"{members.path}: {LABEL_FILE}")
    if pairs is None:
        return np.zeros(len(rows), np.int64), 0
    for stated, values in pairs:
        names = np.char.add(root, stated)
        found = np.searchsorted(members.names, names)
        known = found < len(members.names)
        known[known] = members.names[found[known]] == names[known]
        if not known.all():
            stray = stated[~known][0].decode(errors="replace")
            raise UserError(f"{members.path}: {LABEL_FILE} labels {stray!r}, which is not there: the labels are of other images")
        if len(np.unique(found)) < len(found) or (labels[found] >= 0).any():
            raise UserError(f"{members.path}: {LABEL_FILE} labels one image twice between {names[0].decode()} and {names[-1].decode()}")
        labels[found] = values
    chosen = labels[rows]
    if (chosen < 0).any():
        missing = members.names[rows[int(np.argmin(chosen))]].decode()
        raise UserError(
            f"{members.path}: {LABEL_FILE} has no label for {missing} ({int((chosen < 0).sum())} in all): the labels are of other images"
        )
    return chosen, int(chosen.max()) + 1


def _pairs(data: bytes, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]] | None:
    """The [name, label] pairs in pieces, or None if the file says that there are none.

    One pair is decoded at a time: the list of all of ImageNet's would be half a gigabyte of objects.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{what} is not JSON in UTF-8") from None
    start = re.match(r'\s*\{\s*"labels"\s*:\s*(?:(\[)|null\s*\}\s*$)', text)
    if start is None:
        raise UserError(f'{what} does not start with {{"labels": [[name, number], ...]}}')
    return _decoded(text, start.end(), what) if start.group(1) else None


def _decoded(text: str, place: int, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    names: list[bytes] = []
    values: list[int] = []
    while True:
        place = gap.match(text, place).end()  # type: ignore[union-attr]
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip() != "}":
                raise UserError(f"{what} goes on after its labels")
            break
        try:
            pair, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):  # also a number of thousands of digits
            raise UserError(f"{what} is not valid JSON after {place} characters") from None
        name, value = _checked(pair, what)
        names.append(name)
        values.append(value)
        if len(names) == 10_000:
            yield np.array(names), np.array(values)
            names, values = [], []
    if names:
        yield np.array(names), np.array(values)


def _checked(pair: object, what: str) -> tuple[bytes, int]:
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int and 0 <= pair[1] < MAX_CLASSES:
        name = pair[0].encode("utf-8", "surrogatepass")
        if len(name) <= NAME_BYTES and not re.search("[\ud800-\udfff]", pair[0]):
            return name, pair[1]
    shown = ascii(pair)[:SHOWN] if not isinstance(pair, list) else ascii([ascii(part)[:SHOWN] for part in pair[:2]])
    raise UserError(f"{what} holds {shown}, expected a pair [name, class number below {MAX_CLASSES}]")
