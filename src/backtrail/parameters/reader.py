"""Reads `params.yaml`: of YAML the part that needs no second thought, every value as DVC reads it, and nothing that could hang or surprise.

DVC reads the file by YAML 1.2, most other readers by 1.1. Numbers on which the two differ are refused with the spelling to use, except the
one that DVC writes itself (1e-05). Anchors, aliases and merge keys are refused, because `dvc exp run -S` would change other values than it
names. Values are built from the parser's events one by one, so that no file is large in memory or deep on the stack before it is refused.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from backtrail.artifacts import YAML_LOADER
from backtrail.errors import UserError

MAX_BYTES = 128 * 1024  # the largest suite in the repository has 16 kB
MAX_DEPTH = 24  # sections in sections
MAX_NUMBER = 40  # characters

CONSTANTS = {"": None, "~": None, **dict.fromkeys(("null", "Null", "NULL"))}
CONSTANTS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")  # read alike by YAML 1.1 and 1.2
WRITTEN_BY_DVC = re.compile(r"-?[0-9]e[-+][0-9]{2,3}")  # Python's shortest form of a float, text to YAML 1.1
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
DOUBTFUL = re.compile(  # a number, a truth or a date to YAML 1.1 or 1.2, and to the other something else
    r"[-+]?(0[box][0-9a-fA-F_]+|[0-9_]*[0-9][0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9_]+([eE][-+]?[0-9]+)?|_+)"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?|=",
    re.DOTALL,
)
TRUTHS = dict.fromkeys(("yes", "on", "y"), "true") | dict.fromkeys(("no", "off", "n"), "false")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})( |$)", re.MULTILINE)
TAB = re.compile(r"^[^#\n]*\t", re.MULTILINE)


class _Refusal(Exception):
    """What is wrong, in which line (counted from 0)."""

    def __init__(self, what: str, line: int):
        super().__init__(what)
        self.what, self.line = what, line


def read_values(path: Path) -> Any:
    """What a parameter file holds, as plain Python values. Raises UserError, in one sentence, for a file that is not read as above.

    A file that is absent raises FileNotFoundError.
    """
    text = _text(path)
    try:
        _check_characters(text)
        return _document(yaml.parse(text, Loader=YAML_LOADER))
    except _Refusal as refusal:
        raise UserError(f"{path}, line {refusal.line + 1}: {refusal.what}") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}, column {place.column + 1}" if place else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "no YAML")
        raise UserError(f"{path} is not valid YAML{where}: {problem}") from None


def _text(path: Path) -> str:
    """The file's text, without a byte order mark."""
    if path.exists() and not path.is_file():  # a folder; or a pipe or a device, which might never end
        raise UserError(f"{path} should be a file: it is a {'folder' if path.is_dir() else 'pipe or a device'}")
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES // 1024} KiB: that is no file of parameters")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n")
        raise UserError(f"{path}, line {line + 1}: the byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8") from None


def _check_characters(text: str) -> None:
    for pattern, what in (
        (CONFLICT, "git left the mark of a merge conflict here: choose one side and delete the marks"),
        (UNPRINTABLE, "a control character that no editor shows: delete it"),
        (TAB, "a tab character, which DVC's YAML does not take: write spaces"),
    ):
        if found := pattern.search(text):
            raise _Refusal(what, text.count("\n", 0, found.end() - 1 if pattern is not CONFLICT else found.start()))


def _document(events: Iterator[Any]) -> Any:
    """The one document of a file."""
    next(events)  # the start of the stream
    start = next(events)
    if isinstance(start, yaml.StreamEndEvent):
        return None
    if start.version or start.tags:
        raise _Refusal("lines that begin with % are not read: delete it", 0)
    value = _node(next(events), events, 0)
    next(events)  # the end of the document
    if not isinstance(after := next(events), yaml.StreamEndEvent):
        raise _Refusal("a second document begins here (---): one is read", after.start_mark.line)
    return value


def _node(event: Any, events: Iterator[Any], depth: int) -> Any:
    """The value that begins with `event`."""
    line = event.start_mark.line
    merge_key = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None or merge_key:
        raise _Refusal("anchors (&), aliases (*) and merge keys (<<) are not read, `dvc exp run -S` goes wrong on them: write it out", line)
    if event.tag is not None:
        raise _Refusal("types (!) are not read: write the value alone", line)
    if depth > MAX_DEPTH:
        raise _Refusal(f"more than {MAX_DEPTH} levels of brackets or indentation", line)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value, line) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(events, depth)
    return _mapping(events, depth)


def _sequence(events: Iterator[Any], depth: int) -> list[Any]:
    found = []
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        found.append(_node(event, events, depth + 1))
    return found


def _mapping(events: Iterator[Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key, line = _node(event, events, depth + 1), event.start_mark.line
        if not isinstance(key, str):
            raise _Refusal(f"{shortened(key)} is a key here, and keys are words: is a word missing before the colon?", line)
        if key in found:
            raise _Refusal(f"the key {shortened(key)} stands twice in its section, first in line {lines[key] + 1}: delete one", line)
        lines[key], found[key] = line, _node(next(events), events, depth + 1)
    return found


def _scalar(text: str, line: int) -> str | int | float | bool | None:
    """A plain word, without quotes."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        if len(text) > MAX_NUMBER or not -(2**63) <= int(text) < 2**63:
            raise _Refusal(f"{shortened(text)}: whole numbers end at 2^63 - 1", line)
        return int(text)
    written_by_dvc = WRITTEN_BY_DVC.fullmatch(text) and repr(float(text)) == text
    if FLOAT.fullmatch(text) or written_by_dvc:
        if len(text) > MAX_NUMBER or abs(float(text)) == float("inf"):
            raise _Refusal(f"{shortened(text)}: numbers have up to {MAX_NUMBER} characters and are finite", line)
        return float(text)
    if NOT_FINITE.fullmatch(text):
        raise _Refusal(f"{text}: numbers are finite", line)
    if DOUBTFUL.fullmatch(text) or (text.lower() in TRUTHS and text in (text.lower(), text.upper(), text.capitalize())):
        raise _Refusal(f"{shortened(text)} is not the same to YAML 1.1 and YAML 1.2: {_spelling(text)}", line)
    return text


def _spelling(text: str) -> str:
    """What to write for a doubtful word."""
    if text.lower() in TRUTHS:
        return f"write {TRUTHS[text.lower()]}, or quotes around it if it is text"
    digits = text.replace("_", "")
    for read in (lambda: int(digits), lambda: int(digits, 0), lambda: float(digits), lambda: _sixties(digits)):
        try:
            if len(text) <= MAX_NUMBER and abs(number := read()) < float("inf"):
                return f"write {number}, or quotes around it if it is text"
        except ValueError:
            continue
    return "put quotes around it"


def _sixties(text: str) -> int | float:
    """What YAML 1.1 reads in 1:30: a number to the base of 60."""
    *parts, last = text.split(":")
    whole = functools.reduce(lambda sum_, part: 60 * sum_ + int(part), parts, 0)
    return 60 * whole + (float(last) if "." in last else int(last))


def shortened(value: Any) -> str:
    """A value as a message shows it: on one line, and not more than a line of it."""
    shown = repr(value[:200] if isinstance(value, str) else value)
    return shown if len(shown) <= 80 else f"{shown[:60]} ... ({len(value):,} long)" if hasattr(value, "__len__") else f"{shown[:60]} ..."
