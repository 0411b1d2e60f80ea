"""What DVC knows of the stages, as a plan that Snakemake can schedule.

DVC decides by content what is out of date; Snakemake, which decides by time stamps and missing files, is told so through
one empty stamp per stage that is up to date. Snakemake reads, touches and deletes stamps only: every file that a stage makes
stays DVC's. The main process asks DVC once and writes the plan; the processes of jobs read it and never import DVC.
Everything in `FOLDER` is derived and safe to delete while nothing runs.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import quote

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from dvc_left_over import LOCK, ends_within_a_line, forget_killed_readers, locked_paths, mend_if_cut, mend_lock, mend_path_locks
from dvc_stage import DVC_VERSION, sender

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage
    from snakemake.scheduling.job_scheduler import JobScheduler

DVC = str(Path(__file__).with_name("dvc_stage.py"))  # runs a stage
FOLDER = Path(".snakemake/dvc")
PLAN = FOLDER / "plan.json"
STAMPS = FOLDER / "stamps"
BENCHMARKS = FOLDER / "benchmarks"
PATTERN = re.compile(r"[*?\[]|^/?$")  # in a name, to dpath
CODE_STAGE = "code"  # writes code.yaml, which every other stage depends on
RESOURCES = {"gpus", "mem_mb", "runtime", "threads", "retries"}  # runtime in minutes
REPORT_KEYS = {"category", "caption", "patterns"}
PAGES = ("reports/index.html", "reports/run.html")


def load_plan(is_main_process: bool) -> dict[str, Any]:
    """Return the plan of the project in the current folder; the main process makes it anew first.

    A plan holds `stages`, a list of {name, parents, outs, resources, reports}, and `stale`, {name: reason}. Ends the process with one
    sentence where none can be made.
    """
    if is_main_process:
        try:
            explain_force(sys.argv[1:])
            plan = make_plan()
            explain_files(asked_targets(sys.argv[1:]), plan)
        except WorkflowError as error:  # Snakemake would show lines of a traceback through this file below the sentence
            logger.error(str(error))
            sys.exit(1)
        return plan
    mend_path_locks()
    if ends_within_a_line(LOCK):
        mend_lock()
    return json.loads(PLAN.read_text(encoding="utf-8"))


def remind_once(scheduler: "type[JobScheduler]") -> None:
    """Let Snakemake's scheduler wake up once a second at most while jobs wait.

    It sets itself a reminder each time that it looks, also when a job has ended, and each reminder sets the next: with 200 jobs it looks at
    every waiting job's inputs dozens of times a second, and takes half a core from them.
    """
    pending: set[JobScheduler] = set()

    def remind(self: "JobScheduler", delay: float) -> None:
        def wake() -> None:
            pending.discard(self)
            self._open_jobs.release()

        if self not in pending:
            pending.add(self)
            timer = threading.Timer(delay, wake)
            timer.daemon = True  # nor does the end of a run wait for one
            timer.start()

    scheduler._schedule_reevalutation = remind  # type: ignore[method-assign]  # so called in Snakemake


def explain_force(arguments: list[str]) -> None:
    """Say what --forcerun, --forceall and --force come to here: the job runs, and DVC restores what it has made before."""
    given = parsed(arguments)
    if any(given.get(option) for option in ("force", "forceall", "forcerun")):
        logger.warning(
            "A forced job asks DVC, which computes nothing that it has made before: `dvc repro --force --single-item STAGE` computes anew."
        )


def explain_files(targets: Iterable[str], plan: dict[str, Any]) -> None:
    """Name the stages that make a file, or what lies in a folder, which was asked for: rules make stamps alone, and know no other files."""
    names = {stage["name"] for stage in plan["stages"]}
    for target in targets:
        path = os.path.relpath(target)
        makers = [stage["name"] for stage in plan["stages"] if any(overlaps(path, out) for out in stage["outs"])]
        if target not in names and path != "." and makers:
            raise WorkflowError(f"{target} is made by {list_some(makers)}: ask for the stage, `snakemake ... {' '.join(makers[:3])}`")


def asked_targets(arguments: list[str]) -> list[str]:
    """Return the targets of a command line of Snakemake; none where it is not one."""
    return list(parsed(arguments).get("targets") or [])


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return the options of a command line of Snakemake by its own parser (`-nF` forces, `--force-use-threads` does not)."""
    from snakemake.cli import get_argument_parser

    try:
        return vars(get_argument_parser().parse_known_args(arguments)[0])
    except SystemExit:
        return {}


def stamp(name: str) -> str:
    """Return the path of a stage's stamp: there if and only if the stage is up to date."""
    return str(STAMPS / quote(name, safe="@=,"))


def benchmark(name: str) -> str:
    """Return the path of a stage's benchmark; empty for a stage that DVC has and Snakemake did not run here."""
    return f"{BENCHMARKS / quote(name, safe='@=,')}.tsv"


def describe_job(plan: dict[str, Any], name: str) -> str:
    """Return the line that Snakemake prints for a job: the stage and why DVC would run it."""
    line = f"{name}: {plan['stale'].get(name, 'up to date')}"
    return line.replace("{", "{{").replace("}", "}}")


def make_plan() -> dict[str, Any]:
    """Ask DVC for the stages and what is stale, bring the stamps into line, and write the plan.

    A stamp that is younger than the question is left alone: a job of another Snakemake made it while DVC was answering.
    """
    for folder in (STAMPS, BENCHMARKS):
        folder.mkdir(parents=True, exist_ok=True)
    prepare_suite()
    draft = PLAN.with_suffix(f".{os.getpid()}")
    draft.touch()
    try:
        asked_ns = draft.stat().st_mtime_ns
        plan = ask_dvc()
        fresh = {stage["name"] for stage in plan["stages"]} - set(plan["stale"])
        for path in (Path(made(name)) for name in fresh for made in (stamp, benchmark)):
            if not path.exists():
                path.touch()
        for path in set(STAMPS.iterdir()) - {Path(stamp(name)) for name in fresh}:
            with suppress(FileNotFoundError):  # another Snakemake was faster
                if path.stat().st_mtime_ns < asked_ns:
                    path.unlink()
        draft.write_text(json.dumps(plan, indent=1))
        draft.replace(PLAN)  # at once: a job never reads half a plan
    finally:
        draft.unlink(missing_ok=True)
    return plan


@contextmanager
def own_package() -> Iterator[Path | None]:
    """Let our own package be imported, the one beside this file; None where it is not there."""
    package = Path(__file__).parents[1] / "src"
    if not (package / "backtrail").is_dir():
        yield None
        return
    sys.path.insert(0, str(package))
    try:
        yield package
    finally:
        sys.path.remove(str(package))


def prepare_suite() -> None:
    """Before a rule is made of our own suite: check its params.yaml and that folders it names are there; lay its pipeline down."""
    with own_package() as package:
        if package is None or not os.path.lexists("params.yaml"):
            return
        from backtrail.cli.check import check_names
        from backtrail.cli.own_files import check_places
        from backtrail.errors import UserError
        from backtrail.laid_down import is_laid_down, lay_down
        from backtrail.ledger.repository import nameless
        from backtrail.parameters.ring import RingSuite
        from backtrail.parameters.suite import Suite, read_suite

        try:
            suite = read_suite()
            if is_laid_down(Path.cwd()):
                lay_down(Path.cwd())
            if not isinstance(suite, RingSuite):
                check_names(suite)
            if isinstance(suite, Suite):
                check_places(suite)
            if said := nameless(package):
                logger.warning(said)
        except UserError as error:
            raise WorkflowError(str(error)) from None


def tell_page(plan: dict[str, Any]) -> None:
    """Say where the page of the suite lies, if it is up to date, and what holds it against published results, if there are any."""
    makers = {out: stage["name"] for stage in plan["stages"] for out in stage["outs"]}
    page = next((page for page in PAGES if page in makers and Path(stamp(makers[page])).exists()), None)
    if page is not None:
        logger.info(f"The report: {Path(page).absolute()}")
        if has_published():
            logger.info(f"Held against the published results: `backtrail reproduced`, in {Path.cwd()}")


def has_published() -> bool:
    """Return whether a commit holds results of the suite in the current folder."""
    with own_package() as package:
        if package is None:
            return False
        from backtrail.audit.published import last_with_results
        from backtrail.errors import UserError

        try:
            return bool(last_with_results(Path.cwd()))
        except UserError:
            return False


def ask_dvc() -> dict[str, Any]:
    """Return the plan as DVC sees the current folder; one sentence if it cannot be read."""
    try:
        from dvc import __version__ as version
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.scm import SCMError
    except ImportError as error:
        raise WorkflowError(f"DVC cannot be imported ({error}): install it with `pip install dvc=={DVC_VERSION}`") from error
    try:
        return read_stages()
    except DvcException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        if isinstance(error, NotDvcRepoError | SCMError) and not any((above / ".git").exists() for above in FOLDER.absolute().parents):
            raise WorkflowError(
                "There is no git history here, as in an archive of the sources, and DVC needs one: `git init`, and `git add --all`, "
                "`git commit --message sources`, or records of stages would name no commit"
            ) from error
        raise WorkflowError(f"DVC cannot read the stages of this folder: {error}{cause}") from error
    except OSError as error:
        raise WorkflowError(f"DVC cannot read the stages of this folder: {error}") from error
    except (ImportError, AttributeError, TypeError) as error:
        raise WorkflowError(
            f"The Python interface of DVC has moved: the Snakefile was written for version {DVC_VERSION}, found {version} "
            f"({type(error).__name__}: {error}): install the pinned version with `pip install dvc=={DVC_VERSION}`"
        ) from error


def read_stages() -> dict[str, Any]:
    """Load DVC's index, its graph and its status under one lock, so that the three agree."""
    from dvc.repo import Repo, lock_repo

    # As `dvc --wait-for-lock`: jobs of another run hold the lock for moments only, never while their commands run.
    repo = Repo(_wait_for_lock=True)
    if Path(repo.root_dir) != Path.cwd():
        raise WorkflowError(
            f"{Path.cwd()} is no DVC project of its own, found one in {repo.root_dir}: give the folder a `.dvc/config`, as suites/ have"
        )
    with lock_repo(repo), mock.patch.object(sys, "argv", [sender() + sys.argv[0], *sys.argv[1:]]):
        mend_path_locks(seconds=0)  # who writes them holds DVC's lock
        forget_killed_readers(repo)
        mend_if_cut(repo)
        renew_code(repo)
        graph = repo.index.graph
        stages = sorted((stage for stage in repo.index.stages if stage.cmd), key=lambda stage: stage.addressing)
        parents = {stage.addressing: sorted(p.addressing for p in graph.successors(stage) if p.cmd) for stage in stages}
        changed = find_changed(repo, stages)
    frozen = {stage.addressing for stage in stages if stage.frozen}
    return {
        "stages": [
            {
                "name": stage.addressing,
                "parents": parents[stage.addressing],
                "outs": [os.path.relpath(out.fs_path) for out in stage.outs],
                "resources": read_resources(stage),
                "reports": read_reports(stage),
            }
            for stage in stages
        ],
        "stale": add_downstream(changed, parents, frozen),
    }


def renew_code(repo: "Repo") -> None:
    """Run the stage `code` if it is out of date, before DVC is asked: until its output is there, every stage would be downstream of it."""
    for stage in repo.index.stages:
        if stage.addressing == CODE_STAGE and stage.status(check_updates=False):
            logger.info("code: the source has changed; asking what depends on it")
            repo.reproduce([CODE_STAGE], single_item=True)
            repo.drop_data_index()
            repo._reset()


def find_changed(repo: "Repo", stages: "Iterable[Stage]") -> dict[str, str]:
    """Return {name: reason} of the stages that DVC finds changed, or that another process is writing at this moment.

    A stage that is being written is not asked for: DVC would take the entry of a process on another node for that of a dead one,
    drop it from its lock file, and so break the running job.
    """
    from dvc.dependency import param
    from dvc.stage import Stage

    # The caller holds DVC's lock, without which nobody starts to write: DVC would ask the file of path locks twice more for each stage.
    written, status_of = locked_paths(), Stage.status.__wrapped__
    changed = {}
    # DVC would parse params.yaml once for each stage, and look through all of it for each name; nothing is run here that could write it.
    with mock.patch.object(param, "load_path", cache(param.load_path)), mock.patch.object(param.dpath, "get", directly(param.dpath.get)):
        for stage in stages:
            if any(overlaps(item.fs_path, path) for item in [*stage.outs, *stage.deps] for path in written):
                changed[stage.addressing] = "being written by another process"
            elif status := status_of(stage, check_updates=False):
                changed[stage.addressing] = describe(status[stage.addressing])
    return changed


def directly(get: Callable[..., Any]) -> Callable[..., Any]:
    """Return a look-up that goes down a tree by plain keys, and asks `dpath.get`, which holds all keys against a pattern, for all else."""

    def get_directly(tree: Any, name: str, separator: str) -> Any:
        found = tree
        for key in name.split(separator):
            if not isinstance(found, dict) or key not in found or PATTERN.search(key) or not all(isinstance(one, str) for one in found):
                return get(tree, name, separator=separator)
            found = found[key]
        return found

    return get_directly


def overlaps(one: str, other: str) -> bool:
    """Return whether two paths are the same or one lies inside the other."""
    first, second = sorted((Path(one).parts, Path(other).parts), key=len)
    return second[: len(first)] == first


def describe(entries: list[Any]) -> str:
    """Return DVC's status of one stage as a line: `changed deps: params.yaml (train.lr modified)`."""
    lines = []
    for entry in entries:
        if isinstance(entry, str):
            lines.append(entry)
            continue
        for what, items in entry.items():
            details = [
                f"{path} ({how if isinstance(how, str) else list_some([f'{k} {v}' for k, v in how.items()])})"
                for path, how in items.items()
            ]
            lines.append(f"{what}: {list_some(details)}")
    return "; ".join(lines)


def list_some(items: list[str]) -> str:
    """Return the first three items as a line, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def add_downstream(changed: dict[str, str], parents: dict[str, list[str]], frozen: set[str]) -> dict[str, str]:
    """Return `changed` with everything downstream of it; a frozen stage does not follow its parents, as in `dvc repro`."""
    stale = dict(changed)
    grown = True
    while grown:
        grown = False
        for name, above in parents.items():
            reason = next((parent for parent in above if parent in stale), None)
            if name not in stale and name not in frozen and reason is not None:
                stale[name] = f"downstream of {reason}"
                grown = True
    return stale


def read_resources(stage: "Stage") -> dict[str, int]:
    """Return `meta: resources:` of a stage, checked: known names, or the name of a part of params.yaml's `resources`."""
    resources = (stage.meta or {}).get("resources", {})
    if isinstance(resources, str):
        resources = named_resources(resources)
    if not isinstance(resources, dict):
        raise WorkflowError(f"{stage.addressing}: meta: resources: must be a mapping or a name, found {resources!r}")
    for key, value in resources.items():
        if key not in RESOURCES:
            raise WorkflowError(f"{stage.addressing}: unknown resource {key!r} in meta, expected one of {', '.join(sorted(RESOURCES))}")
        if type(value) is not int or value < 0:
            raise WorkflowError(f"{stage.addressing}: resource {key!r} in meta must be a whole number, found {value!r}")
    return resources


def named_resources(name: str) -> dict[str, int]:
    """Return a part of the section `resources` of params.yaml; one sentence if it is not there."""
    known = resources_of_suite(Path("params.yaml").resolve())
    if name not in known:
        raise WorkflowError(f"dvc.yaml asks for the resources {name!r}, and params.yaml has no resources.{name}; it has {', '.join(known)}")
    return known[name]


@cache
def resources_of_suite(parameters: Path) -> dict[str, dict[str, int]]:
    """Return the section `resources` of params.yaml."""
    return (yaml.safe_load(parameters.read_text(encoding="utf-8")) or {}).get("resources") or {}


def read_reports(stage: "Stage") -> list[dict[str, Any]]:
    """Return the outputs that carry `meta: report:` and exist, as {path, category, caption, patterns}."""
    reports = []
    for out in stage.outs:
        report = (out.annot.meta or {}).get("report")
        if report is None:
            continue
        if not isinstance(report, dict) or not {"category", "caption"} <= set(report) <= REPORT_KEYS:
            raise WorkflowError(
                f"{stage.addressing}: meta: report: of {out} must hold category and caption (and patterns), found {report!r}"
            )
        if out.exists:
            reports.append({"path": os.path.relpath(out.fs_path), "patterns": None, **report})
    return reports


def scheduler_resources(resources: dict[str, int]) -> dict[str, int]:
    """Return a stage's resources under the names that Snakemake and its Slurm plugin know.

    `tasks_per_gpu=0`: with two GPUs the plugin would otherwise start the script twice, once per GPU.
    """
    known = {key: resources[key] for key in ("mem_mb", "runtime") if key in resources}
    return {**known, "gpu": resources["gpus"], "tasks_per_gpu": 0} if resources.get("gpus") else known
