"""Where a suite's `dvc.yaml` comes from: the repository's, which is written by hand, laid down with the way to the code.

A suite below `suites/` is its params.yaml; its pipeline has the stages of `workflow/pipelines` that those parameters ask for besides. No
stage imports this: a new kind of suite changes the code of none.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import backtrail
from backtrail.artifacts import atomic_write
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE, PIPELINE_FILE
from backtrail.parameters.base import read
from backtrail.pipeline import Declared, stages_of

ROOT = Path(backtrail.__file__).parents[2]
CODE_LINE = re.compile(r"^  - code: .*$", re.MULTILINE)
CODE_FOLDER = re.compile(r"^      - \$\{code\}(?: #.*)?\n", re.MULTILINE)
PROJECT_FILES = (".dvc/config", ".dvc/.gitignore", ".dvcignore")
BY_HAND = "data/local/README.md"  # in a folder that is there from the start, since stages depend on it
KEPT = (".dvc/config", BY_HAND)  # the user's own once they are there: remotes, the place of the cache
JOINED = (".dvc/.gitignore", ".dvcignore")  # the user's own too, with the lines that a suite needs among them
OF_THEIR_OWN = ("ring", "text", "latent")  # sections whose suites have a pipeline of their own, in workflow/pipelines
STAGE = re.compile(r"^(?:  #.*\n)*  (?P<name>[a-z-]+):.*\n(?:(?:    .*)?\n)*", re.MULTILINE)  # with the comments before it
# What a suite that trains a teacher and distils nothing has no use for.
OF_STUDENTS = {
    *("path", "score-distillation", "mismatch", "path-samples"),
    *("trajectories", "trajectory-distillation", "samples", "metrics"),
    *("figures", "tables", "report"),
}
FIGURES_OF_PAGE = "      - reports/figures\n"  # among what the page of results depends on
LAID_DOWN = "# Laid down from the repository's dvc.yaml by `backtrail pipeline`: edit it there.\n"


def declared_stages(folder: str | Path = ".", params: Mapping[str, Any] | None = None) -> Iterator[Declared]:
    """Every stage of the suite in `folder`, whether its pipeline is laid down yet or not, in the order of the file.

    params: what its params.yaml says, read where it is not given. Raises UserError if the pipeline is no YAML or names a parameter that is
    not there.
    """
    folder = Path(folder)
    values = read(folder / PARAMS_FILE) if params is None else params
    own = folder / PIPELINE_FILE
    try:
        yield from stages_of(own.read_text(encoding="utf-8") if own.is_file() else pipeline_text(folder, values), values)
    except yaml.YAMLError as error:
        raise UserError(f"{own} is no YAML: {' '.join(str(error).split())}") from None


def pipeline_text(folder: str | Path, params: Mapping[str, Any]) -> str:
    """What `dvc.yaml` of the suite in `folder` should hold: the repository's pipeline, with the stages that its parameters ask for.

    Raises UserError if the package does not lie in its repository.
    """
    if not (ROOT / PIPELINE_FILE).is_file():
        raise UserError(f"{ROOT} holds no {PIPELINE_FILE}: backtrail runs from a checkout of its repository (`pip install --editable .`)")
    own = next((f"workflow/pipelines/{kind}.yaml" for kind in OF_THEIR_OWN if kind in params), PIPELINE_FILE)
    whole = (ROOT / own).read_text(encoding="utf-8")
    if own == PIPELINE_FILE and params.get("students") == {}:
        whole = STAGE.sub(lambda stage: "" if stage["name"] in OF_STUDENTS else stage[0], whole)
    parts = [_more("path", start) for start in params.get("start") or {} if start != "teacher"]
    report = params.get("report") or {}
    asked = {**{key: params.get(key) for key in ("second_stage", "scaling")}, **{key: report.get(key) for key in ("axes", "sampler_axes")}}
    parts += [_more(name) for name, section in asked.items() if section]
    if asked["axes"] or asked["sampler_axes"]:
        whole = whole.replace(FIGURES_OF_PAGE, f"{FIGURES_OF_PAGE}      - reports/axes\n")
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


def _joined(found: str, text: str) -> str:
    """What a user wrote, with those of our lines below it that are not among theirs; comments are not missed."""
    theirs = {line.strip() for line in found.splitlines()}
    lacking = [line for line in text.splitlines() if line.strip() and not line.startswith("#") and line.strip() not in theirs]
    return "\n".join([found.removesuffix("\n"), *lacking, ""]) if lacking else found


def lay_down(folder: Path, writes: bool = True) -> list[str]:
    """Make `folder`, which holds a params.yaml, a DVC project with its pipeline; the repository's own is written by hand.

    What the user wrote in the files of JOINED stays. Returns the files that are (or, unless `writes`, would be) written. Raises UserError
    if a pipeline is there that was written by hand.
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
        if found is not None and name in JOINED:
            text = _joined(found, text)
        if found == text or (found is not None and name in KEPT):
            continue
        if name == PIPELINE_FILE and not is_laid_down(folder):
            raise UserError(f"{path} was written by hand: move it away, or keep it and do without `backtrail pipeline`")
        if writes:
            atomic_write(path, lambda file, text=text: file.write_text(text, encoding="utf-8"))
        written.append(name)
    return written
