"""The shape of the house: floors, one declaration of the pipeline, and that the package stays out of the engines."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.main import CParser

import backtrail
from backtrail.cli import COMMANDS, STAGES
from backtrail.laid_down import declared_stages, lay_down, pipeline_text
from backtrail.layout import CODE_FILE, LOCK_FILE, PARAMS_FILE, PIPELINE_FILE, RECORDS
from backtrail.ledger.fingerprints import PACKAGE_FOLDER, closure_files, commands
from backtrail.methods.disback import distillation as one_step
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd import distillation as few_step
from backtrail.parameters.suite import read_suite
from backtrail.pipeline import Declared
from backtrail.training.noise import denoising_loss, score_matching_loss

ROOT = Path(__file__).parents[2]
SUITES = [ROOT, *sorted(path.parent for path in ROOT.glob("suites/*/params.yaml"))]
FLOORS = [
    {"cli", "__main__"},
    {"stages"},
    {"report", "audit", "export"},
    {"running"},
    {"ledger", "laid_down"},
    {"metrics"},
    {"methods"},
    {"teachers"},
    {"training", "data"},
    {"nets", "sampling"},
    {"denoiser", "conditions", "levels", "randomness"}
    | {"parameters", "pipeline", "layout", "nested", "artifacts", "tables", "tensors", "errors"},
]
OF_THEIR_OWN_KIND = ("ring", "fashion-text", "fashion-text-teacher", "sd15", "sdxl", "lsun-bedroom")  # suites with a pipeline of their own
APART = {"report", "audit", "export"}  # rooms of one floor that do not import each other


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("backtrail", cache_dir=None)


def room(module: str) -> str:
    return module.split(".")[1]


def floor_of(module: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room(module) in floor)


def imports(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    modules = graph.modules - {"backtrail"}
    return [(m, i) for m in modules for i in graph.find_modules_directly_imported_by(m) - {"backtrail"}]


def test_modules_import_from_their_own_floor_or_below(graph: grimp.ImportGraph) -> None:
    assert [(module, imported) for module, imported in imports(graph) if floor_of(imported) < floor_of(module)] == []


def test_rooms_of_one_floor_stay_apart(graph: grimp.ImportGraph) -> None:
    assert [(m, i) for m, i in imports(graph) if {room(m), room(i)} <= APART and room(m) != room(i)] == []


def test_no_two_rooms_import_each_other(graph: grimp.ImportGraph) -> None:
    pairs = {(room(m), room(i)) for m, i in imports(graph) if room(m) != room(i)}
    assert {pair for pair in pairs if pair[::-1] in pairs} == set()


def test_every_module_has_a_floor(graph: grimp.ImportGraph) -> None:
    assert {room(m) for m in graph.modules - {"backtrail"}} <= set().union(*FLOORS)


def test_what_is_imported_is_declared() -> None:
    """A package that is there because another asks for it goes when that one does."""

    def plain(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {*map(plain, project["dependencies"]), *map(plain, project["optional-dependencies"]["latent"])}
    imported, beside = set(), list(ROOT.glob("workflow/*.py"))
    for file in (*PACKAGE_FOLDER.rglob("*.py"), *beside):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            imported |= {name.partition(".")[0] for name in names}
    owners = packages_distributions()
    done_without = {"open_clip", "requests_cache"}  # where they are not
    foreign = imported - sys.stdlib_module_names - {"backtrail", *(file.stem for file in beside)} - done_without
    assert {name for name in foreign if not declared.intersection(map(plain, owners.get(name, [])))} == set()


@pytest.mark.parametrize("engine", ["dvc", "snakemake"])
def test_the_package_does_not_import_the_engines(engine: str) -> None:
    for file in PACKAGE_FOLDER.rglob("*.py"):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if line.startswith((f"import {engine}", f"from {engine}"))], file


def test_a_suite_depends_on_each_source_file_and_on_nothing_compiled() -> None:
    """DVC does not heed .dvcignore in a folder outside of its project."""
    stages = {stage.name: stage for stage in declared_stages(ROOT / "suites/ring")}
    package = ROOT / "suites/ring/../../src/backtrail"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=package, capture_output=True, text=True, check=True
    )
    there = {name for name in tracked.stdout.split() if (package / name).is_file()}
    assert set(stages["code"].deps) == {f"../../src/backtrail/{name}" for name in there}
    assert {stage.name: stage.deps for stage in declared_stages(ROOT)}["code"] == ("src/backtrail",)


def test_every_command_has_a_module() -> None:
    assert set(commands()) == set(STAGES)
    modules = {f.stem.replace("_", "-") for f in (PACKAGE_FOLDER / "cli").glob("*.py") if "click.command" in f.read_text(encoding="utf-8")}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_a_stage_depends_on_its_own_code_and_leaves_its_record(folder: Path) -> None:
    content = yaml.safe_load(pipeline_text(folder, yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))))
    for name, definition in content["stages"].items():
        command = definition["cmd"].removeprefix("python ${code} ")
        assert command in STAGES, name
        if name != "code":
            assert {"code.yaml": [command]} in definition["params"], name
    for stage in declared_stages(folder):
        assert stage.name in ("code", "ledger") or f"{RECORDS}/{stage.name}.json" in stage.outs
        assert len({*stage.outs}) == len(stage.outs)


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_no_text_of_the_parameters_stands_in_a_command(folder: Path) -> None:
    for stage in declared_stages(folder):
        assert re.fullmatch(r"python [./]*src/backtrail [a-z-]+", stage.cmd), stage.cmd


@pytest.mark.parametrize("folder", [folder for folder in SUITES if folder.name not in OF_THEIR_OWN_KIND], ids=lambda folder: folder.name)
def test_what_was_got_by_hand_is_a_dependency_of_the_stage_that_takes_it(folder: Path) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    values["data"]["local"], values["teacher"]["local"], values["metrics"]["inception"]["local"] = "../a", "b.pkl", "c"
    found = {stage.name: stage.deps for stage in declared_stages(folder, values)}
    assert [found[name] for name in ("fetch", "fetch-teacher", "fetch-inception")] == [("../a",), ("b.pkl",), ("c",)]


def test_no_stage_of_the_built_in_suite_is_an_empty_matrix() -> None:
    declared = {stage.name.split("@")[0] for stage in declared_stages(ROOT)}
    assert declared == set(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.mark.parametrize("name", ["ablations", "cifar10", "fashion-text", "ring", "sdxl"])
def test_what_is_read_of_a_pipeline_is_what_dvc_reads(name: str, tmp_path: Path) -> None:
    """Each stage's paths, parameters and command, against DVC's own resolution."""
    from dvc.repo import Repo

    folder = tmp_path / name
    folder.mkdir()
    (folder / "params.yaml").write_text((ROOT / f"suites/{name}/params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    lay_down(folder)
    ours = {stage.name: stage for stage in declared_stages(folder)}
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, env=environment)
    theirs = {stage.addressing.split(":")[-1]: of_dvc(stage, folder) for stage in Repo(str(folder)).index.stages if stage.cmd}
    assert {name: (sorted(s.deps), sorted(s.params), sorted(s.outs), s.cmd) for name, s in ours.items()} == theirs


def test_what_a_user_wrote_beside_a_pipeline_stays(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "suites/cifar10/params.yaml").read_bytes())
    assert ".dvc/config" in lay_down(tmp_path) and not lay_down(tmp_path)
    for name in (".dvc/config", "data/local/README.md"):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("[core]\n    remote = store\n")
    (tmp_path / "dvc.yaml").write_text((tmp_path / "dvc.yaml").read_text(encoding="utf-8").replace("fetch", "get"), encoding="utf-8")
    assert lay_down(tmp_path) == ["dvc.yaml"]
    assert "remote = store" in (tmp_path / ".dvc/config").read_text(encoding="utf-8")


def of_dvc(stage: object, folder: Path) -> tuple:
    def relative(items: list) -> list[str]:
        return sorted(os.path.relpath(item.fs_path, folder.resolve()) for item in items)

    plain = [dep for dep in stage.deps if type(dep).__name__ != "ParamsDependency"]
    params = [dep for dep in stage.deps if type(dep).__name__ == "ParamsDependency" and Path(dep.fs_path).name == "params.yaml"]
    return relative(plain), sorted(key for dep in params for key in dep.params), relative(stage.outs), stage.cmd


def test_one_more_length_guidance_or_seed_trains_nothing_that_stands() -> None:
    """What trains depends on its own section alone."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    trains = {
        s.name: s for s in declared_stages(ROOT) if s.command in ("path", "score-distillation", "trajectories", "trajectory-distillation")
    }
    for stage in trains.values():
        assert not [key for key in stage.params if key.split(".")[0] in ("students", "report", "teacher_samples", "seeds", "start")], stage
    more = params | {
        "seeds": [*params["seeds"], 9],
        "students": {**params["students"], "sfd": {"num_steps": [4, 5], "guidance": [1.0, 3.0]}},
    }
    again: dict[str, Declared] = {s.name: s for s in declared_stages(ROOT, more)}
    assert {name: again[name] for name in trains} == trains


def test_params_files_have_no_anchors() -> None:
    for folder in SUITES:
        text = (folder / "params.yaml").read_text(encoding="utf-8")
        assert not re.search(r"(:|-) [&*]\w|<<:", text), folder
        read_suite(folder / "params.yaml")


def test_a_suite_is_one_file_until_it_is_run() -> None:
    tracked = subprocess.run(["git", "ls-files", "suites"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    unrun = [folder for folder in SUITES[1:] if f"suites/{folder.name}/dvc.lock" not in tracked]
    for folder in unrun:
        files = {Path(f).relative_to(f"suites/{folder.name}").parts[0] for f in tracked if f.startswith(f"suites/{folder.name}/")}
        assert not files & {"dvc.yaml", ".dvc", ".dvcignore"}, folder


def test_an_audit_of_hashes_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, backtrail.cli.audit; print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_dvc_reads_its_lock_by_the_c_parser_and_reads_what_the_pure_one_reads() -> None:
    """`ruamel.yaml[oldlibyaml]` is required for this alone: DVC reads dvc.lock at each job, the pure parser four times as slowly."""
    assert YAML(typ="safe").Parser is CParser is not None
    for file in (ROOT / name for name in (LOCK_FILE, PIPELINE_FILE, PARAMS_FILE, CODE_FILE)):
        text = file.read_text(encoding="utf-8")
        assert repr(YAML(typ="safe").load(text)) == repr(YAML(typ="safe", pure=True).load(text)), file  # 1 is not 1.0, nor a text


def test_every_module_can_be_imported() -> None:
    """An import of a name that its module has not is no error to the linter."""
    for module in pkgutil.walk_packages(backtrail.__path__, "backtrail."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_no_stage_stands_on_where_its_pipeline_comes_from() -> None:
    """A new kind of suite, or a section more in a suite's parameters, changes the code of no training."""
    assert [command for command in commands() if Path("laid_down.py") in closure_files(command)] == []
    trainings = ("teacher", "path", "score-distillation", "trajectory-distillation", "samples", "metrics")
    assert [command for command in trainings if Path("parameters/suite.py") in closure_files(command)] == []


def test_the_citation_has_what_its_format_requires() -> None:
    """The keys that Citation File Format 1.2.0 asks for, in it and in each reference."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys() and cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (backtrail.__version__, "Apache-2.0")
    for work in (cited, *cited["references"]):
        assert work["title"] and work["type"] in ("software", "article") and all(author["name"] for author in work["authors"])
        assert all(of.keys() == {"type", "value"} and of["type"] in ("doi", "url", "swh", "other") for of in work.get("identifiers", []))


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda path: path.stem)
def test_github_runs_the_commands_of_the_readme_with_no_right_to_write(path: Path) -> None:
    workflow, readme = yaml.safe_load(path.read_text(encoding="utf-8")), (ROOT / "README.md").read_text(encoding="utf-8")
    jobs = workflow["jobs"]
    steps = {name: job["steps"] for name, job in jobs.items()}
    ran = {name: [step["run"].removesuffix(" PYTHON=python") for step in of if "run" in step] for name, of in steps.items()}
    assert workflow["permissions"] == {"contents": "read"} and all("timeout-minutes" in job for job in jobs.values())
    slurm = "sudo sh tests/cluster/install.sh"  # without it the tests on Slurm, which are among the slow ones, are skipped
    assert ran == {"test": ["make test"], "test-all": [slurm, "make test-all"], "repro": ["make repro"]}
    assert all(re.search(rf"\b{of[-1]}[ `]", readme) for of in ran.values())
    on = workflow[True]  # YAML 1.1 reads the key `on` so
    assert on["push"] == {"branches": ["main"]} and {name for name, job in jobs.items() if "if" in job} == {"test-all"}
    assert jobs["test-all"]["if"] == "github.event_name == 'push'"
    (kept,) = [step["with"]["path"].split() for step in steps["repro"] if "upload-artifact" in step.get("uses", "")]
    assert kept == ["reports", "reproduced.html", "logs"]
    for of in steps.values():
        (checkout,) = [step["with"] for step in of if step.get("uses", "").startswith("actions/checkout@")]
        assert checkout == {"fetch-depth": 0, "persist-credentials": False}


def test_what_the_methods_are_called_with_stays_few() -> None:
    """What a denoiser knows by itself is not passed beside it; a draw is one object."""
    for function in (one_step.distil, one_step.update, record, few_step.distil, score_matching_loss, denoising_loss):
        assert len(inspect.signature(function).parameters) <= 5, function
    methods = [path for path in (PACKAGE_FOLDER / "methods").rglob("*.py") if "type: ignore" in path.read_text(encoding="utf-8")]
    assert methods == []


def test_where_things_lie_is_said_once() -> None:
    """In `layout.py`; elsewhere a path below a suite's folder is at most a constant with a name of its own."""
    places = ("results/", "reports/", "data/raw", "data/teacher/", "data/inception", "data/dataset")
    found = []
    for path in (path for name in ("report", "cli", "audit", "export", "stages") for path in (PACKAGE_FOLDER / name).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        named = {id(leaf) for node in tree.body if isinstance(node, ast.Assign) for leaf in ast.walk(node)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for node in (node for node in texts if node.value.startswith(places) and node.value not in ("results/", "reports/")):
            if id(node) not in docstrings | named:
                found.append(f"{path.relative_to(PACKAGE_FOLDER)}:{node.lineno}: {node.value[:50]}")
    assert found == []
