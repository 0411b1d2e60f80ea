"""Parameters with one value changed, and the sentence that refuses them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from backtrail.errors import UserError
from backtrail.parameters.suite import read_suite

ROOT = Path(__file__).parents[2]


def self_contained() -> dict[str, Any]:
    """The built-in suite's parameters, with the teacher and the classifier trained in it, as the suite that publishes them trains them."""
    files = (ROOT / "params.yaml", ROOT / "suites/fashion-mnist-teacher/params.yaml")
    built_in, source = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)
    return built_in | {key: source[key] for key in ("classifier", "teacher")}


def as_yaml(values: dict[str, Any]) -> str:
    """A parameter file; what several sections share in Python is written out in each, without an anchor."""
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)


def sentence_for(valid: dict[str, Any], folder: Path, key: str, value: object) -> str:
    """What is said of `params.yaml` with `value` at `key` (parts joined by dots)."""
    values = copy.deepcopy(valid)
    *parents, last = key.split(".")
    place = values
    for part in parents:
        place = place[part]
    place[last] = value
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_suite(folder / "params.yaml")
    return str(error.value)
