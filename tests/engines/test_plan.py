"""The plan that the Snakefile reads: what is checked, what is stale, and who may write."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import dpath
import dvc.repo.plots  # noqa: F401 (sets how dpath takes empty keys, as wherever DVC asks it)
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.exceptions import WorkflowError
from snakemake.scheduling.job_scheduler import JobScheduler

from .conftest import ROOT, Project

spec = importlib.util.spec_from_file_location("dvc_plan", ROOT / "workflow/dvc_plan.py")
dvc_plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dvc_plan)


def stage(**fields) -> SimpleNamespace:
    return SimpleNamespace(**{"addressing": "teacher", "meta": None, "outs": [], **fields})


def test_stale_is_what_changed_and_all_below_but_for_frozen_stages():
    parents = {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["d", "c"], "frozen": ["a"], "f": ["frozen"]}
    stale = dvc_plan.add_downstream({"b": "changed command"}, parents, {"frozen"})
    assert stale == {"b": "changed command", "c": "downstream of b", "e": "downstream of c"}
    assert set(dvc_plan.add_downstream({"a": "x"}, parents, {"frozen"})) == {"a", "b", "c", "e"}


def test_a_reason_is_one_line():
    params = {"params.yaml": {"teacher.lr": "modified", "teacher.steps": "new"}}
    assert dvc_plan.describe([{"changed deps": params}, "changed command"]) == (
        "changed deps: params.yaml (teacher.lr modified, teacher.steps new); changed command"
    )
    many = {f"src/{i}.py": "modified" for i in range(9)}
    expected = "changed deps: src/0.py (modified), src/1.py (modified), src/2.py (modified) and 6 more"
    assert dvc_plan.describe([{"changed deps": many}]) == expected
    assert dvc_plan.describe_job({"stale": {"a": "{x}"}}, "a") == "a: {{x}}"


KEYS = st.sampled_from(["a", "b", "a*", "1", "", "/"])


@given(
    st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS | st.sampled_from([1, True]), inner, max_size=3) | st.lists(inner)),
    st.lists(KEYS | st.sampled_from(["*", "0", "[ab]", "True"]), min_size=1, max_size=3).map(".".join),
)
def test_a_parameter_is_looked_up_as_dvc_does(tree, name):
    def outcome(get):
        try:
            return get({"a": tree, "b": 1}, name, separator=".")
        except (KeyError, ValueError) as error:
            return type(error)

    assert outcome(dvc_plan.directly(dpath.get)) == outcome(dpath.get)


def test_a_scheduler_is_reminded_once_at_a_time():
    assert callable(JobScheduler._schedule_reevalutation)  # what is replaced is there
    woken = threading.Semaphore(0)
    scheduler = type("Scheduler", (), {"_open_jobs": woken})
    dvc_plan.remind_once(scheduler)
    one = scheduler()
    for _ in range(2):
        for _ in range(50):  # as after fifty jobs
            one._schedule_reevalutation(0.1)
        assert woken.acquire(timeout=10)
        assert not woken.acquire(timeout=0.3)


@pytest.mark.parametrize(
    ("arguments", "forces"),
    [
        *((line, True) for line in ("-f teacher", "-F", "-nF", "-R teacher", "--force", "--forceall", "--forcerun=a", "--forcerun a b")),
        *((line, False) for line in ("teacher", "--force-use-threads", "--rerun-triggers mtime", "-n")),
    ],
)
def test_what_forces_jobs_is_told_from_what_begins_alike(arguments, forces, monkeypatch, caplog):
    monkeypatch.setattr(dvc_plan.logger, "propagate", True)
    dvc_plan.explain_force(arguments.split())
    assert ["dvc repro --force" in said for said in caplog.messages] == [True] * forces


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("/a/b", "/a/b", True), ("/a", "/a/b", True), ("/a/b/c", "/a", True), ("/a/b", "/a/bc", False)]
)
def test_paths_overlap(one, other, expected):
    assert dvc_plan.overlaps(one, other) is expected


def test_resources_are_checked_and_renamed_for_the_scheduler():
    asked = {"gpus": 2, "mem_mb": 100, "runtime": 5, "threads": 1}
    assert dvc_plan.read_resources(stage(meta={"resources": asked})) == asked
    assert dvc_plan.scheduler_resources(asked) == {"mem_mb": 100, "runtime": 5, "gpu": 2, "tasks_per_gpu": 0}
    assert dvc_plan.scheduler_resources({"gpus": 0}) == {} == dvc_plan.scheduler_resources(dvc_plan.read_resources(stage()))
    with pytest.raises(WorkflowError, match=r"teacher: meta: resources: must be a mapping or a name, found \['light'\]"):
        dvc_plan.read_resources(stage(meta={"resources": ["light"]}))
    with pytest.raises(WorkflowError, match="teacher: unknown resource 'memory'"):
        dvc_plan.read_resources(stage(meta={"resources": {"memory": 1}}))
    with pytest.raises(WorkflowError, match="'mem_mb' in meta must be a whole number, found '4GB'"):
        dvc_plan.read_resources(stage(meta={"resources": {"mem_mb": "4GB"}}))


def test_a_report_needs_category_and_caption():
    out = SimpleNamespace(annot=SimpleNamespace(meta={"report": {"category": "Figures"}}))
    with pytest.raises(WorkflowError, match="must hold category and caption"):
        dvc_plan.read_reports(stage(outs=[out]))


def test_a_stamp_made_while_dvc_answers_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["snakemake"])  # not pytest's, whose words are no targets
    stages = [{"name": name} for name in ("fresh", "stale", "just-finished")]
    plan = {"stages": stages, "stale": {"stale": "changed", "just-finished": "being written by another process"}}

    def answer():
        Path(dvc_plan.stamp("just-finished")).touch()
        return plan

    dvc_plan.STAMPS.mkdir(parents=True)
    for name in ("stale", "removed-from-dvc.yaml"):
        Path(dvc_plan.stamp(name)).touch()
        os.utime(dvc_plan.stamp(name), (0, 0))
    monkeypatch.setattr(dvc_plan, "ask_dvc", answer)
    assert dvc_plan.load_plan(is_main_process=True) == plan == dvc_plan.load_plan(is_main_process=False)
    assert {path.name for path in dvc_plan.STAMPS.iterdir()} == {"fresh", "just-finished"}
    assert {path.name for path in dvc_plan.FOLDER.iterdir()} == {"plan.json", "stamps", "benchmarks"}


@pytest.mark.parametrize("published", [False, True])
def test_the_page_of_a_run_is_named_with_what_holds_it_against_published_results(tmp_path, monkeypatch, caplog, published):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc_plan.logger, "propagate", True)
    caplog.set_level("INFO", logger=dvc_plan.logger.name)
    if published:
        Path("reports/tables").mkdir(parents=True)
        Path("reports/tables/results.csv").write_text("method\n", encoding="utf-8")
    someone = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*someone, "commit", "-q", "--allow-empty", "-m", "all")):
        subprocess.run(["git", *command], check=True)
    dvc_plan.STAMPS.mkdir(parents=True)
    pages = {"report": "reports/index.html", "ledger": "reports/run.html"}
    plan = {"stages": [{"name": name, "outs": [page]} for name, page in pages.items()], "stale": {}}
    command = [f"Held against the published results: `backtrail reproduced`, in {tmp_path}"] if published else []
    dvc_plan.tell_page(plan)
    assert caplog.messages == []
    for name in ("ledger", "report"):  # the page of numbers goes before that of the run
        Path(dvc_plan.stamp(name)).touch()
        caplog.clear()
        dvc_plan.tell_page(plan)
        assert caplog.messages == [f"The report: {tmp_path / pages[name]}", *command]


def test_a_failed_question_leaves_stamps_and_plan_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".git").mkdir()
    dvc_plan.STAMPS.mkdir(parents=True)
    Path(dvc_plan.stamp("teacher")).touch()
    dvc_plan.PLAN.write_text("{}")
    with pytest.raises(WorkflowError, match="DVC cannot read the stages of this folder"):
        dvc_plan.make_plan()
    assert Path(dvc_plan.stamp("teacher")).exists() and dvc_plan.PLAN.read_text(encoding="utf-8") == "{}"


def test_one_sentence_if_the_interface_of_dvc_has_moved(monkeypatch):
    import dvc.repo

    monkeypatch.delattr(dvc.repo, "lock_repo")
    with pytest.raises(WorkflowError, match=r"interface of DVC has moved: .* install the pinned version with `pip install dvc=="):
        dvc_plan.ask_dvc()


def test_one_sentence_if_a_file_of_dvc_cannot_be_read(project, monkeypatch):
    monkeypatch.chdir(project.root)
    (project.root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    (project.root / ".dvc/tmp/rwlock").mkdir(parents=True)
    with pytest.raises(WorkflowError, match=r"DVC cannot read the stages of this folder: .*Is a directory: '\.dvc/tmp/rwlock'"):
        dvc_plan.ask_dvc()


def test_dvc_is_the_pinned_version():
    import dvc

    assert dvc.__version__ == dvc_plan.DVC_VERSION


def test_a_folder_that_is_no_project_of_its_own_is_refused(project, monkeypatch):
    monkeypatch.chdir(project.root / "results")
    with pytest.raises(WorkflowError, match="no DVC project of its own"):
        dvc_plan.ask_dvc()


def test_a_stage_held_by_a_process_elsewhere_is_not_asked_for(project, monkeypatch):
    """The process number of another host means nothing here: DVC would drop the entry, and the job that holds it would fail."""
    monkeypatch.chdir(project.root)
    lock = project.root / ".dvc/tmp/rwlock"
    held = {"write": {str(project.root / "results/teacher.txt"): {"pid": 2**22 + 1, "cmd": "dvc repro"}}, "read": {}}
    lock.write_text(json.dumps(held))
    stale = dvc_plan.ask_dvc()["stale"]
    assert stale["teacher"] == "being written by another process"
    assert {"path", "student@disback-0"} < set(stale) and "data" not in stale
    assert json.loads(lock.read_text(encoding="utf-8"))["write"] == held["write"]


def test_jobs_never_import_dvc(project: Project):
    project.planned()
    code = "import sys; sys.path.insert(0, 'workflow'); import dvc_plan; dvc_plan.load_plan(False); assert 'dvc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=project.root, check=True)


def test_lint_format_and_report(project: Project, tmp_path):
    assert "good condition" in project.snakemake("--lint")
    project.call(sys.executable, "-m", "snakefmt", "--check", "workflow")
    before = project.git("status", "--short", "--ignored")
    project.snakemake("--report", str(tmp_path / "report.html"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    captions = ["number of function evaluations", "spread over the seeds"]
    assert all(text in html for text in ["figure.svg", "table.csv", "Figures", "Tables", *captions])
    assert set(project.git("status", "--short", "--ignored").splitlines()) - set(before.splitlines()) <= {
        "!! .snakemake/",
        "!! workflow/__pycache__/",
    }


def parameter_keys(node) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(parameter_keys, node))
    return set(node).union(*map(parameter_keys, node.values())) if isinstance(node, dict) else set()


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *ROOT.glob("suites/*/params.yaml")], ids=lambda path: path.parent.name)
def test_no_parameter_is_named_size_or_nfiles(path):
    """DVC leaves keys of these names out of the run cache's key: it would restore the result of another value, in silence."""
    assert not {"size", "nfiles"} & parameter_keys(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [ROOT / "dvc.yaml", *ROOT.glob("suites/*/dvc.yaml")], ids=lambda path: path.parent.name)
def test_every_output_can_be_restored(path):
    """One uncached file under `outs:` keeps a whole stage out of the run cache; under `metrics:` and `plots:` it does not.

    The stages `code` and `ledger` are meant to be: each takes a second, and its file belongs into git.
    """
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    bodies = {name: body for name, body in stages.items() if name not in ("code", "ledger")}
    uncached = [(name, out) for name, body in bodies.items() for out in body["outs"] if isinstance(out, dict)]
    assert [name for name, out in uncached if any(not (options or {}).get("cache", True) for options in out.values())] == []


@pytest.mark.parametrize("path", [ROOT / "dvc.yaml", *ROOT.glob("suites/*/dvc.yaml")], ids=lambda path: path.parent.name)
def test_every_caption_exists(path):
    captions = set(re.findall(r"caption: ([^,}\s]+)", path.read_text(encoding="utf-8")))
    assert captions and {caption for caption in captions if not (ROOT / "workflow" / caption).is_file()} == set()
