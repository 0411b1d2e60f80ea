"""The pipeline as `dvc.yaml` declares it, read without DVC: what a stage reads, which parameters it depends on, and what it makes.

The repository's `dvc.yaml` is written by hand. A suite below `suites/` has the same one, laid down by `lay_down` with the way to the
code, and with the stages of `workflow/pipelines` that its parameters ask for. What is read here is what DVC reads: a test compares both.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import backtrail
from backtrail.artifacts import atomic_write, load_yaml
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE, PIPELINE_FILE
from backtrail.parameters.base import read

ROOT = Path(backtrail.__file__).parents[2]
CODE_LINE = re.compile(r"^  - code: .*$", re.MULTILINE)
CODE_FOLDER = re.compile(r"^      - \$\{code\}(?: #.*)?\n", re.MULTILINE)
PROJECT_FILES = (".dvc/config", ".dvc/.gitignore", ".dvcignore")
BY_HAND = "data/local/README.md"  # in a folder that is there from the start, since stages depend on it
OF_THEIR_OWN = ("ring", "text")  # sections whose suites have a pipeline of their own, in workflow/pipelines
LAID_DOWN = "# Laid down from the repository's dvc.yaml by `backtrail pipeline`: edit it there.\n"
TERM = re.compile(r"\$\{\s*([^}]*?)\s*\}")


@dataclass(frozen=True)
class Declared:
    """A stage: name in DVC, command, the matrix's item ({method, seed}), paths read and made, parameters by dotted key in params.yaml."""

    name: str
    command: str
    item: dict[str, Any]
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    cmd: str = field(default="", compare=False)


def declared_stages(folder: str | Path = ".", params: Mapping[str, Any] | None = None) -> Iterator[Declared]:
    """Every stage of the suite in `folder`, in the order of the file. `params` is what its params.yaml says, read where it is not given.

    Raises UserError if the pipeline names a parameter that is not there.
    """
    folder = Path(folder)
    values = read(folder / PARAMS_FILE) if params is None else params
    own = folder / PIPELINE_FILE
    text = own.read_text(encoding="utf-8") if own.is_file() else pipeline_text(folder, values)
    content = load_yaml(text)
    context = {**values, **{key: value for part in content.get("vars", []) for key, value in part.items()}}
    for name, definition in content["stages"].items():
        for item in _items(definition.get("matrix"), context):
            yield _declared(name, definition, item, {**context, "item": item})


def declared(name: str, folder: str | Path = ".") -> Declared:
    """One stage by its name in DVC. Raises UserError that says which there are."""
    known = {stage.name: stage for stage in declared_stages(folder)}
    if name not in known:
        base = name.split("@")[0]
        like = [other for other in known if other.split("@")[0] == base] or list(known)
        raise UserError(f"{PIPELINE_FILE} declares no stage {name!r}; it has {', '.join(like[:8])}{' ...' if len(like) > 8 else ''}")
    return known[name]


def _items(matrix: dict[str, Any] | None, context: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The items of a stage's matrix, one without any where it has none; of a mapping, its keys."""
    axes = {key: list(_resolve(values, context)) for key, values in (matrix or {}).items()}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _declared(name: str, definition: dict[str, Any], item: dict[str, Any], context: Mapping[str, Any]) -> Declared:
    def paths(*keys: str) -> tuple[str, ...]:
        entries = [entry for key in keys for entry in definition.get(key) or []]
        return tuple(str(_resolve(next(iter(entry)) if isinstance(entry, dict) else entry, context)) for entry in entries)

    params = [_resolve(key, context) for key in definition.get("params", []) if not isinstance(key, dict)]
    full = f"{name}@{'-'.join(map(str, item.values()))}" if item else name
    cmd = str(_resolve(definition["cmd"], context))
    return Declared(full, cmd.split()[-1], item, paths("deps"), tuple(params), paths("outs", "metrics", "plots"), cmd)


def _resolve(value: Any, context: Mapping[str, Any]) -> Any:
    """`value` with `${a.b}` and `${a[0]}` replaced as DVC does: a text that is one such term becomes the value itself."""
    if isinstance(value, list):
        return [_resolve(of, context) for of in value]
    if not isinstance(value, str):
        return value
    if whole := TERM.fullmatch(value):
        return _lookup(whole[1], context)
    return TERM.sub(lambda term: str(_lookup(term[1], context)), value)


def _lookup(key: str, context: Mapping[str, Any]) -> Any:
    value: Any = context
    for part in re.findall(r"[^.\[\]]+", key):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"{PARAMS_FILE} has no {key}, which {PIPELINE_FILE} names: `backtrail check` says what a suite needs") from None
    return value


def pipeline_text(folder: str | Path, params: Mapping[str, Any]) -> str:
    """What `dvc.yaml` of the suite in `folder` should hold: the repository's pipeline, with the stages that its parameters ask for.

    Raises UserError if the package does not lie in its repository.
    """
    if not (ROOT / PIPELINE_FILE).is_file():
        raise UserError(f"{ROOT} holds no {PIPELINE_FILE}: backtrail runs from a checkout of its repository (`pip install --editable .`)")
    own = next((f"workflow/pipelines/{kind}.yaml" for kind in OF_THEIR_OWN if kind in params), PIPELINE_FILE)
    whole = (ROOT / own).read_text(encoding="utf-8")
    parts = [_more("path", start) for start in params.get("start") or {} if start != "teacher"]
    report = params.get("report") or {}
    asked = {"second_stage": params.get("second_stage"), "axes": report.get("axes"), "sampler_axes": report.get("sampler_axes")}
    parts += [_more(name) for name, section in asked.items() if section]
    code = os.path.relpath(ROOT / "src/backtrail", Path(folder).resolve())
    return LAID_DOWN + CODE_LINE.sub(f"  - code: {code}", CODE_FOLDER.sub(_file_by_file(), whole + "".join(parts)))


def _more(name: str, start: str = "") -> str:
    """The stages in `workflow/pipelines/NAME.yaml`."""
    return "\n" + (ROOT / f"workflow/pipelines/{name}.yaml").read_text(encoding="utf-8").replace("START", start)


def _file_by_file() -> str:
    """The dependencies of the stage `code` in a suite: DVC heeds .dvcignore in its own project only, so that of a folder outside of it, it
    would hash the compiled files too."""
    package = ROOT / "src/backtrail"
    files = sorted(p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return "".join(f"      - ${{code}}/{name}\n" for name in files)


def is_laid_down(folder: Path) -> bool:
    """Whether the pipeline of the suite in `folder` is, or is to be, one that `lay_down` writes: not the repository's, nor one by hand."""
    path = folder / PIPELINE_FILE
    return folder.resolve() != ROOT and (not path.is_file() or path.read_text(encoding="utf-8").startswith(LAID_DOWN))


def lay_down(folder: Path, writes: bool = True) -> list[str]:
    """Make `folder`, which holds a params.yaml, a DVC project with its pipeline; the repository's own is written by hand.

    Returns the files that are (or, unless `writes`, would be) written. Raises UserError if one of them is there and was not laid down.
    """
    if folder.resolve() == ROOT:
        return []
    values = read(folder / PARAMS_FILE)
    copied = PROJECT_FILES if "ring" in values else (*PROJECT_FILES, BY_HAND)
    wanted = {PIPELINE_FILE: pipeline_text(folder, values), **{name: (ROOT / name).read_text(encoding="utf-8") for name in copied}}
    written = []
    for name, text in wanted.items():
        path = folder / name
        found = path.read_text(encoding="utf-8") if path.is_file() else None
        if found == text:
            continue
        if name == PIPELINE_FILE and not is_laid_down(folder):
            raise UserError(f"{path} was written by hand: move it away, or keep it and do without `backtrail pipeline`")
        if writes:
            atomic_write(path, lambda file, text=text: file.write_text(text, encoding="utf-8"))
        written.append(name)
    return written
