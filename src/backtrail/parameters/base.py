"""The rules of every parameter section, and how one is read out of `params.yaml`."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from backtrail.errors import UserError

PARAMS_FILE = "params.yaml"


class Section(BaseModel):
    """A part of `params.yaml`: unknown keys are errors, text is not taken for a number, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _check_digests(value: dict[str, str]) -> dict[str, str]:
    for name, digest in value.items():
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"the sha256 of {name} should be 64 hexadecimal digits in lower case")
    return value


Digests = Annotated[dict[str, str], AfterValidator(_check_digests)]  # sha256 by file name
S = TypeVar("S", bound=Section)


def read(path: str | Path = PARAMS_FILE) -> dict[str, Any]:
    """The whole file as plain Python values. Raises UserError if it is absent or not a YAML mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing here: run the command in a suite's folder (where {PARAMS_FILE} and dvc.yaml lie)") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}, column {place.column + 1}" if place else ""
        raise UserError(f"{path} is not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} should be a mapping of sections; found {type(values).__name__}")
    return values


def validate(model: type[S], value: Any, key: str, path: str | Path = PARAMS_FILE) -> S:
    """`value` as a `model`. Raises UserError that names the key, the value found and what is allowed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_sentence(e, key, model) for e in error.errors())) from None


def _sentence(error: Any, key: str, model: type[Section]) -> str:
    where = ".".join(str(part) for part in (key, *error["loc"]) if part != "")
    if error["type"] == "extra_forbidden":
        return f"unknown key {where}; allowed beside it: {', '.join(_siblings(model, error['loc']))}"
    if error["type"] == "missing":
        return f"{where} is missing"
    hint = ""
    if error["type"] == "float_type" and isinstance(error["input"], str):
        hint = " (YAML reads a number such as 5e-3 without a point as text: write 5.0e-3 or 0.005)"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not where:  # a rule over several sections, which names them itself: the whole file is no help
        return message
    return f"{where} = {error['input']!r}: {message}{hint}"


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
