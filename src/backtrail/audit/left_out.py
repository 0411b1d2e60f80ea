"""What was left out: tables and page against what params.yaml asks for, and what its history has held and it holds no more.

A number that is shown may be right in every digit and yet be one of several that were tried. So every cell that `params.yaml` declares has
to be there, and a seed or a method that was declared once and is gone is told, with the commit that dropped it. What was tried and never
committed is known to nobody.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from backtrail.artifacts import load_yaml
from backtrail.audit.findings import UNBACKED, Finding
from backtrail.audit.published import CLAIMS, RESULTS
from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.layout import LOCK_FILE, PAGE, PARAMS_FILE, metrics
from backtrail.ledger.confined import is_shallow
from backtrail.ledger.fingerprints import PACKAGE_FOLDER, text_fingerprint
from backtrail.ledger.history import History, history
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import read_rows
from backtrail.nested import leaves
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.reader import MAX_BYTES
from backtrail.parameters.suite import Suite, read_suite

CLAIMS_CODE = "report/statements.py"
SHOWN = 6  # things that one message names
Cell = tuple[str, str, int, float]  # teacher or student, sampler or method, evaluations, weight of guidance


def missing(ledger: Ledger, claims: Sequence[str] = ()) -> Iterator[Finding]:
    """What params.yaml declares and the pipeline, the table of results or the table of claims lacks.

    claims: the keys that the package's table of claims has; they are asked for only where the suite has the package's own claims. What
    dvc.yaml declares and dvc.lock lacks is told elsewhere.
    """
    if not {"students", "report"} <= ledger.params.keys():
        return
    try:
        suite = read_suite(ledger.folder / PARAMS_FILE)
        declared = {path for stage in declared_stages(ledger.folder, ledger.params) for path in stage.outs}
    except (UserError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        message = f"{PARAMS_FILE} does not say which numbers there should be: {str(error).splitlines()[0]}"
        yield Finding(UNBACKED, PARAMS_FILE, f"{PARAMS_FILE} -> {RESULTS}", message, "backtrail check")
        return
    if not isinstance(suite, Suite):
        return
    yield from _stages(ledger, suite, declared | ledger.makers.keys())
    if RESULTS in ledger.makers and (rows := read_rows(ledger.folder / RESULTS)):
        yield from _rows(suite, rows)
    if claims and CLAIMS in ledger.makers and _has_our_claims(ledger) and (rows := read_rows(ledger.folder / CLAIMS)):
        shown = {row.get("claim") for row in rows}
        if lacking := [key for key in claims if key not in shown]:
            yield _lacks(CLAIMS, f"{_listed(lacking)}: the code judges {len(claims)} claims")


def _stages(ledger: Ledger, suite: Suite[Any, Any], made: set[str]) -> Iterator[Finding]:
    """What is measured and shown by no stage, neither one that ran nor one that dvc.yaml declares."""
    for method in suite.methods:
        if seeds := [seed for seed in suite.seeds if metrics(method, seed) not in made]:
            what = f"{method} with seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"
            yield _no_stage(metrics(method, seeds[0]), f"measures {what}, which {PARAMS_FILE} declares")
    for path in (metrics(), *((RESULTS, CLAIMS, PAGE) if suite.methods else ())):
        if path not in made:
            yield _no_stage(path, f"makes {path}, which {PARAMS_FILE} asks for (`teacher_samples`, `report`)")


def _no_stage(path: str, what: str) -> Finding:
    message = f"no stage {what}: neither dvc.yaml nor {LOCK_FILE} has one"
    return Finding(UNBACKED, path, f"{PARAMS_FILE} -> {path}", message, "git checkout -- dvc.yaml && dvc repro")


def _rows(suite: Suite[Any, Any], rows: list[dict[str, str]]) -> Iterator[Finding]:
    """Rows, counts of seeds and columns of the table of results against the suite's declaration."""
    shown: dict[Cell, dict[str, str]] = {}
    for row in rows:
        try:
            shown[row["kind"], row["method"], int(row["nfe"]), float(row["guidance"])] = row
        except (KeyError, ValueError):
            continue  # no row of this table: `rests_on` finds nothing behind it
    wanted = list(cells(suite))
    if lacking := [_in_words(cell) for cell in wanted if cell not in shown]:
        yield _lacks(RESULTS, f"{_listed(lacking)}: {PARAMS_FILE} declares {len(wanted)} rows, and {len(lacking)} are not there")
    few = [cell for cell in wanted if cell in shown and shown[cell].get("n_seeds") != str(1 if cell[0] == "teacher" else len(suite.seeds))]
    if few:
        counts = [f"{_in_words(cell)} ({shown[cell].get('n_seeds') or 'none'})" for cell in few]
        yield _lacks(RESULTS, f"all seeds of {_listed(counts)}: {PARAMS_FILE} declares {len(suite.seeds)} seeds, one for the teacher")
    means = columns(suite.metrics)
    empty = [f"{name} of {_in_words(cell)}" for cell in wanted if cell in shown for name in means if not shown[cell].get(name)]
    if empty:
        yield _lacks(RESULTS, f"{_listed(empty)}: {PARAMS_FILE} declares the metric and extractor")


def cells(suite: Suite[Any, Any]) -> Iterator[Cell]:
    """The rows that a suite's table of results must have."""
    for name, sampler in suite.teacher_samples.samplers.items():
        for n in sampler.num_steps:
            yield "teacher", name, sampler.nfe(n), sampler.guidance
    for method in suite.methods:
        sampling, few_step = suite.sampled_at(method), suite.few_step.get(method)
        steps = [1] if few_step is None else [n - 1 - few_step.afs for n in sampling.num_steps or []]
        for weight in sampling.guidance:
            for n in steps:
                yield "student", method, n * (1 if weight == 1 else 2), weight


def columns(p: Metrics) -> list[str]:
    """The columns of means that every row must have a number in."""
    names = [("fid" if metric == "fd" and of.startswith("inception") else metric, of) for of in p.extractors for metric in p.metrics]
    return [f"{metric}_{of.replace('-', '_')}_mean" for metric, of in names]


def _in_words(cell: Cell) -> str:
    _, method, nfe, weight = cell
    return f"{method} at NFE {nfe}" + ("" if weight == 1 else f" under guidance {weight:g}")


def _listed(things: Sequence[Any]) -> str:
    return ", ".join(map(str, things[:SHOWN])) + (f" and {len(things) - SHOWN} more" if len(things) > SHOWN else "")


def _lacks(table: str, what: str) -> Finding:
    # The numbers that are there are not wrong for it: the finding stands for itself, and none of them rests on it.
    return Finding(UNBACKED, f"{table}:missing", f"{PARAMS_FILE} -> {table}", f"{table} lacks {what}", "dvc repro -f tables")


def _has_our_claims(ledger: Ledger) -> bool:
    """Whether the suite's claims are the package's: a suite with code of its own may judge others."""
    ours, theirs = PACKAGE_FOLDER / CLAIMS_CODE, ledger.folder / ledger.code / CLAIMS_CODE
    if not (ours.is_file() and theirs.is_file()):
        return False
    return text_fingerprint(CLAIMS_CODE, ours.read_bytes()) == text_fingerprint(CLAIMS_CODE, theirs.read_bytes())


def dropped(ledger: Ledger) -> Iterator[str]:
    """A line for each seed and method that params.yaml held in some commit and holds no more, with the commit that dropped it last.

    And a line where the history is not whole. No verdict hangs on either: there are good reasons to drop what is no longer wanted, and a
    reader should know of it.
    """
    past = history(ledger.folder, PARAMS_FILE)
    if not past.commits:
        return
    held = {content: _held(content) for content in set(past.contents.values())}
    now = _of(ledger.params)
    for what in ("seed", "method"):
        gone = _gone(past, _carried(past, {name: held[content].get(what, set()) for name, content in past.contents.items()}), now[what])
        for commit, things in gone.items():
            when = f"{datetime.fromtimestamp(past.commits[commit].time_s, UTC):%Y-%m-%d}" if commit else ""
            by = f"commit {commit[:12]} of {when} dropped {'it' if len(things) == 1 else 'them'}" if commit else "not committed yet"
            yield f"{what}{'s' if len(things) > 1 else ''} that {PARAMS_FILE} held and holds no more: {', '.join(sorted(things))}; {by}"
    if not past.whole:
        yield f"git's history is not whole here: which seeds and methods {PARAMS_FILE} held before cannot be told; `git fetch --unshallow`"


def _carried(past: History, held: dict[str, set[str]]) -> dict[str, set[str]]:
    """`held`, but a commit in which the file is away holds what its parents do: taking it away and making it anew must not hide a drop."""
    for name in reversed(past.commits):
        if past.contents[name] is None:
            held[name] = set().union(*(held.get(parent, set()) for parent in past.commits[name].parents))
    return held


def _gone(past: History, held: dict[str, set[str]], now: set[str]) -> dict[str, set[str]]:
    """What is held no more, by the newest commit that lacks it while a parent holds it; by an empty name, what the present one holds."""
    gone: dict[str, set[str]] = defaultdict(set)
    known = held[past.head] - now
    if known:
        gone[""] |= known
    for name, commit in past.commits.items():
        if past.contents[name] is None:
            continue  # the file was moved or made anew, which drops nothing by itself
        lost = set().union(*(held.get(parent, set()) for parent in commit.parents)) - held[name] - now - known
        if lost:
            gone[name] |= lost
            known |= lost
    return gone


def _held(content: bytes | None) -> dict[str, set[str]]:
    """The seeds and methods of a version of params.yaml; nothing of one that cannot be read."""
    if content is not None and (len(content) > MAX_BYTES or not is_shallow(content)):
        return {}
    try:
        return _of(load_yaml((content or b"").decode()))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return {}


def _of(values: Any) -> dict[str, set[str]]:
    if not isinstance(values, dict):
        return {"seed": set(), "method": set()}
    seeds = values.get("seeds")
    held = {str(seed) for seed in seeds if isinstance(seed, int)} if isinstance(seeds, list) else set()
    places = ((*place, of) for place, of in leaves(values) if place[-1:] == ("seed",))
    return {"seed": held | {f"{'.'.join(place)} = {of}" for *place, of in places}, "method": _methods(values)}


def _methods(values: dict[str, Any]) -> set[str]:
    """Students by the list of students, and by the sections that train them, which suites had before there was a list."""
    sections = [values.get("students"), values.get("score_distillation"), values.get("trajectory_distillation")]
    second = values.get("second_stage")
    sections.append(second.get("methods") if isinstance(second, dict) else None)
    return {name for section in sections if isinstance(section, dict) for name in section if isinstance(name, str)}
