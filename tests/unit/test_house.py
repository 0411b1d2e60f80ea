"""The shape of the house: floors, the code that stages declare, and that the package stays out of the engines."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

from backtrail.cli import COMMANDS
from backtrail.ledger.closure import PACKAGE_FOLDER, closure, source_files
from code_deps import code_lines, has_own_pipeline, pipelines

ROOT = Path(__file__).parents[2]
FLOORS = [
    {"cli", "__main__"},
    {"report", "provenance"},
    {"metrics"},
    {"methods"},
    {"teachers"},
    {"training", "data"},
    {"nets", "sampling"},
    {"denoiser", "parameters", "randomness", "artifacts", "tables", "tensors", "errors"},
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("backtrail", cache_dir=None)


def floor_of(module: str) -> int:
    name = module.split(".")[1]
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def test_modules_import_from_their_own_floor_or_below(graph: grimp.ImportGraph) -> None:
    upward = [
        (module, imported)
        for module in graph.modules - {"backtrail"}
        for imported in graph.find_modules_directly_imported_by(module) - {"backtrail"}
        if floor_of(imported) < floor_of(module)
    ]
    assert upward == []


def test_every_module_has_a_floor(graph: grimp.ImportGraph) -> None:
    assert {m.split(".")[1] for m in graph.modules - {"backtrail"}} <= set().union(*FLOORS)


@pytest.mark.parametrize("engine", ["dvc", "snakemake"])
def test_the_package_does_not_import_the_engines(engine: str) -> None:
    for file in PACKAGE_FOLDER.rglob("*.py"):
        lines = [line.strip() for line in file.read_text().splitlines()]
        assert not [line for line in lines if line.startswith((f"import {engine}", f"from {engine}"))], file


def test_declared_code_is_the_code_that_runs() -> None:
    """In the shared pipeline and its copies in suites/, and in the pipelines of suites without images."""
    stale = [str(path.relative_to(ROOT)) for path, wanted in pipelines().items() if path.read_text() != wanted]
    assert stale == [], "run `make deps`"


OWN = [ROOT, *(path.parent for path in pipelines() if path.parent != ROOT and has_own_pipeline(path.parent))]


@pytest.mark.parametrize("folder", OWN, ids=lambda folder: folder.name)
def test_a_stage_declares_exactly_its_import_closure(folder: Path) -> None:
    """The rewriting above and this check share the closure. Each file stands by itself: see `code_lines`."""
    for stage, definition in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].items():
        command = definition["cmd"].split()[3]
        declared = [PACKAGE_FOLDER / d.removeprefix("${code}/") for d in definition["deps"] if d.startswith("${code}/")]
        modules = {*closure("backtrail.__main__"), *closure(f"backtrail.cli.{command.replace('-', '_')}")}
        assert declared == [PACKAGE_FOLDER / f for f in source_files(modules)] and all(path.is_file() for path in declared), stage


@pytest.mark.parametrize("command", ["figure", "score-distillation"])
def test_the_closure_holds_what_python_really_loads(command: str) -> None:
    """Against the interpreter: the modules of this package in sys.modules after the command's import, no more and no fewer."""
    name = f"backtrail.cli.{command.replace('-', '_')}"
    code = f"import sys, backtrail.__main__, {name}; print(*[m for m in sys.modules if m.split('.')[0] == 'backtrail'])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    closed = {*closure("backtrail.__main__"), *closure(name)}
    assert set(loaded) == closed


def test_report_stages_declare_their_templates() -> None:
    assert any("report" in line for line in code_lines("report"))
    assert "report/templates/index.html" in {f.as_posix() for f in source_files(closure("backtrail.stages.report"))}


def test_suites_have_the_shared_pipeline_if_they_have_images() -> None:
    suites = [path.parent for path in ROOT.glob("suites/*/params.yaml")]
    shared = {suite.name for suite in suites if (suite / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()}
    assert shared == {suite.name for suite in suites if not has_own_pipeline(suite)}, "run `make deps`"
    assert "ring" not in shared


def test_every_command_has_a_module() -> None:
    modules = {file.stem.replace("_", "-") for file in (PACKAGE_FOLDER / "cli").glob("*.py") if "click.command" in file.read_text()}
    assert modules == set(COMMANDS)
