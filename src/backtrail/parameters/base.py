"""The rules of every parameter section, what is shared by their fields, and how one is read out of `params.yaml`."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from posixpath import normpath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from backtrail.errors import UserError
from backtrail.layout import DATASET, FETCHED_TEACHER, INCEPTION, PARAMS_FILE, RAW
from backtrail.parameters.reader import read_values, shortened

MADE = (RAW, FETCHED_TEACHER, INCEPTION, DATASET, "results", "reports")  # what stages write, and so no place for files of one's own
MOST_SAID = 4  # of many errors; the others are counted
RESERVED = frozenset(
    {
        # folders and files of results and pages
        *("teacher", "real", "data", "results", "reports", "records", "students", "samples", "states", "curves", "tables", "figures"),
        *("axes", "suites"),
        # stages
        *("code", "fetch", "fetch-teacher", "fetch-inception", "dataset", "classifier", "reference", "teacher-samples", "teacher-metrics"),
        *("trajectories", "path", "score-distillation", "trajectory-distillation", "metrics", "mismatch", "path-samples", "figure"),
        *("figure-axis", "report", "ledger"),
        # keys that DVC leaves out of its run cache's: it would take the results of other parameters for those of these
        *("size", "nfiles"),
        # words that a reader of tables takes for a missing or an infinite number, or for yes and no
        *("nan", "null", "none", "na", "inf", "infinity", "true", "false", "yes", "no", "on", "off"),
    }
)


class Section(BaseModel):
    """A part of `params.yaml`: unknown keys are errors, text is not taken for a number, numbers are finite, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _check_name(name: str) -> str:
    if len(name) > 60 or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(
            "a name is up to 60 small letters and digits, with '-' between them, and begins with a letter: "
            "it stands in the names of files and stages, in tables and on pages"
        )
    if name in RESERVED:
        raise ValueError(f"{name} is a stage, a folder or no word to a reader of tables: choose another name")
    return name


def _check_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("should be one line of text, without control characters or blanks at its ends")
    return text


def _check_path(path: str) -> str:
    """Parameters stand in dvc.lock, in the records and on the report's page: a path that tells whose machine it was is refused.

    So is an address, which may hold a password: the message does not repeat what was found.
    """
    if not path or path[0] in "/~-" or set(path) & set(":\\${}") or not path.isprintable() or len(path) > 1000:
        raise PydanticCustomError(
            "unspoken",
            "should be a path relative to the suite's folder, without any of : \\ $ { }: an absolute one or an address would stand in "
            "dvc.lock and in reports/; make a link to the files there (`ln -s FOLDER originals`) and write `originals`",
        )
    own = PurePath(normpath(path))
    if set(own.parts) <= {".."} or any(own.is_relative_to(made) or PurePath(made).is_relative_to(own) for made in MADE):
        raise ValueError(f"stages write there ({', '.join(MADE)}): your own files need a folder of their own, such as data/local")
    return path


def _check_digests(value: dict[str, str]) -> dict[str, str]:
    for name, digest in value.items():
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"the sha256 of {shortened(name)} should be 64 hexadecimal digits in lower case")
    return value


def _check_distinct(values: list[Any]) -> list[Any]:
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{shortened(twice[0])} stands in the list twice")
    return values


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


T = TypeVar("T")
# What a method, a suite, a sampler or an axis is called. Small letters alone, so that no two names differ by case only.
Name = Annotated[str, AfterValidator(_check_name)]
ByName = Annotated[dict[Name, T], Field(max_length=1000)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_line)]  # what stands on a page, in a table or a figure
RelativePath = Annotated[str, AfterValidator(_check_path)]
Digests = Annotated[dict[Line, str], Field(max_length=1000), AfterValidator(_check_digests)]  # sha256 by file name
Distinct = Annotated[list[T], Field(max_length=1000), AfterValidator(_check_distinct)]
Pair = Annotated[tuple[T, T], BeforeValidator(_as_tuple)]  # YAML has lists only
S = TypeVar("S", bound=Section)


def read(path: str | Path = PARAMS_FILE) -> dict[str, Any]:
    """The whole file as plain Python values. Raises UserError if it is absent, not a YAML mapping, or YAML that is not read here."""
    try:
        values = read_values(Path(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing here: run the command in a suite's folder (where {PARAMS_FILE} and dvc.yaml lie)") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} should be a mapping of sections; found {type(values).__name__}")
    return values


def validate(model: type[S], value: Any, key: str, path: str | Path = PARAMS_FILE) -> S:
    """`value` as a `model`. Raises UserError that names the key, the value found and what is allowed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Unknown keys first: a word that is misspelled is missing at its own place too.
        errors = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        more = f"; and {len(errors) - MOST_SAID:,} more" if len(errors) > MOST_SAID else ""
        raise UserError(f"{path}: " + "; ".join(_sentence(e, key, model) for e in errors[:MOST_SAID]) + more) from None


def _sentence(error: Any, key: str, model: type[Section]) -> str:
    where = _dotted((key, *error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key {where}; allowed beside it: {', '.join(_siblings(model, error['loc']))}"
    if error["type"] == "missing":
        return f"{where} is missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "unspoken":
        return f"{where} {message}"
    if not where:  # a rule over several sections, which names them itself: the whole file is no help
        return message
    if isinstance(error["input"], dict):  # a rule over a section, which names the field
        return f"{where}: {message}"
    return f"{where} = {shortened(error['input'])}: {message}{_hint(error['type'], error['input'])}"


def _dotted(parts: Iterable[Any]) -> str:
    """A place in the file, for people: keys that are no plain words in quotes, and without pydantic's word for a key itself."""
    shown = (str(part) for part in parts if part not in ("", "[key]"))
    return ".".join(part if part.isascii() and part.isprintable() and len(part) <= 60 else shortened(part) for part in shown)


def _hint(kind: str, value: Any) -> str:
    """What to write where text was found instead of a number, or of true and false."""
    if not isinstance(value, str) or not kind.startswith(("int", "float", "bool")):
        return ""
    try:
        return f" (write {float(value) if kind.startswith('float') else int(value)}, without quotes)"
    except ValueError:
        return " (that is text to YAML)"


def _siblings(model: Any, location: tuple[Any, ...]) -> list[str]:
    """The field names allowed where `location` points to an unknown key, as far as the types tell."""
    for part in location[:-1]:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return ["see the section's model in src/backtrail/parameters"]
        model = fields[part].annotation
    return sorted(getattr(model, "model_fields", {})) or ["see the section's model in src/backtrail/parameters"]


def section(model: type[S], key: str, path: str | Path = PARAMS_FILE) -> S:
    """The section at the dotted `key` (for example `teacher` or `score_distillation.disback`), validated.

    Raises UserError if the section or one of its values is not allowed.
    """
    value: Any = read(path)
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(value, dict) or part not in value:
            known = f"; known: {', '.join(map(str, value))}" if isinstance(value, dict) else ""
            raise UserError(f"{path} has no {'.'.join(parts[: depth + 1])}{known}")
        value = value[part]
    return validate(model, value, key, path)
