"""Where a run is, by Snakemake's events and what stages took before."""

import io
import json
import logging
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from run_progress import AROUND_S, CLEAR, Display, Progress, in_words, past_costs

PARENTS = {"data": [], "teacher": ["data"], **{f"student@a-{n}": ["teacher"] for n in (0, 1)}, "figure": ["student@a-0", "student@a-1"]}
PLAN = {"stages": [{"name": name, "parents": parents} for name, parents in PARENTS.items()], "stale": {}}


def event(kind: LogEvent, **said: object) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", None, None)
    vars(record).update(said, event=kind)
    return record


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    """Data is up to date; the others run."""
    plan = {**PLAN, "stale": {"teacher": "changed", "student@a-0": "", "student@a-1": "", "figure": ""}}
    of = Progress(plan, {"teacher": 100 - AROUND_S, "student@a-0": 40 - AROUND_S, "figure": 20 - AROUND_S}, clock)
    of.note(event(LogEvent.RUN_INFO, stats={"all": 1, "teacher": 1, "student@a-0": 1, "student@a-1": 1, "figure": 1, "total": 5}))
    of.note(event(LogEvent.JOB_STARTED, jobs=[3]))
    return of


def test_a_run_says_what_is_done_what_runs_and_what_is_left(progress: Progress, clock: Clock) -> None:
    assert str(progress) == "1 of 5 stages done; about 3 min left"  # 100 + 40 + 40 + 20: the other student takes as long as its like
    progress.note(event(LogEvent.JOB_INFO, jobid=3, rule_name="teacher"))
    clock.now = 30
    assert str(progress) == "1 of 5 stages done; running: teacher (30 s); about 3 min left" and progress.left_s() == 170
    clock.now = 500
    assert progress.left_s() == 100, "a stage that takes longer than before has nothing left, and no less"
    assert progress.note(event(LogEvent.JOB_FINISHED, job_id=3))
    assert str(progress) == "2 of 5 stages done; about 8 min left" and progress.left_s() == 500, "this run takes five times as long"
    for job, name in ((4, "student@a-0"), (5, "student@a-1")):
        progress.note(event(LogEvent.JOB_INFO, jobid=job, rule_name=name))
    assert progress.note(event(LogEvent.JOB_ERROR, jobid=4, rule_name="student@a-0"))
    clock.now = 600
    assert str(progress).startswith("2 of 5 stages done; running: student@a-1 (2 min); about ")
    assert not progress.note(event(LogEvent.JOB_INFO, jobid=1, rule_name="all"))


def run(progress: Progress, clock: Clock, name: str, until: float, ends: LogEvent = LogEvent.JOB_FINISHED) -> None:
    job = sorted(progress.names).index(name)
    progress.note(event(LogEvent.JOB_INFO, jobid=job, rule_name=name))
    clock.now = until
    progress.note(event(ends, **{"job_id" if ends == LogEvent.JOB_FINISHED else "jobid": job}))


def test_what_failed_and_what_stands_on_it_is_not_waited_for_until_it_is_tried_again(progress: Progress, clock: Clock) -> None:
    run(progress, clock, "teacher", until=100)
    run(progress, clock, "student@a-0", until=120, ends=LogEvent.JOB_ERROR)
    assert progress.todo() == {"student@a-1"} and progress.left_s() == 40, "the 20 s that failed are no sign of a slow run"
    run(progress, clock, "student@a-0", until=130, ends=LogEvent.JOB_ERROR)
    assert progress.todo() == {"student@a-1"}
    progress.note(event(LogEvent.JOB_INFO, jobid=3, rule_name="student@a-0"))
    assert progress.todo() == {"student@a-0", "student@a-1", "figure"} and progress.left_s() == 100
    run(progress, clock, "student@a-0", until=170)
    run(progress, clock, "student@a-1", until=200, ends=LogEvent.JOB_ERROR)
    assert str(progress) == "3 of 5 stages done", "nothing is left to wait for"


def test_a_frozen_stage_passes_no_failure_on(clock: Clock) -> None:
    """It is up to date whatever became of its parents: the run has not asked for it, and makes what stands on it."""
    of = Progress({**PLAN, "stale": {"teacher": "changed", "figure": "changed"}}, {"figure": 20 - AROUND_S}, clock)
    of.note(event(LogEvent.RUN_INFO, stats={"teacher": 1, "figure": 1, "total": 2}))
    of.note(event(LogEvent.JOB_STARTED, jobs=[1]))
    run(of, clock, "teacher", until=1, ends=LogEvent.JOB_ERROR)
    assert of.todo() == {"figure"}


def test_a_failure_is_noted_where_no_time_is_known(clock: Clock) -> None:
    of = Progress({**PLAN, "stale": {"figure": "changed"}}, {}, clock)
    of.note(event(LogEvent.RUN_INFO, stats={"figure": 1, "total": 1}))
    of.note(event(LogEvent.JOB_STARTED, jobs=[1]))
    run(of, clock, "figure", until=1, ends=LogEvent.JOB_ERROR)
    assert str(of) == "4 of 5 stages done" and of.left_s() is None


def test_a_stage_that_is_forced_is_not_done_yet(clock: Clock) -> None:
    of = Progress(PLAN, {}, clock)
    of.note(event(LogEvent.RUN_INFO, stats={"teacher": 1, "total": 1}))
    assert str(of) == "4 of 5 stages done", "nothing is known of times"


def test_a_dry_run_runs_nothing(clock: Clock) -> None:
    of = Progress(PLAN, {}, clock)
    of.note(event(LogEvent.RUN_INFO, stats={"teacher": 1, "total": 1}))
    of.note(event(LogEvent.JOB_INFO, jobid=3, rule_name="teacher"))
    assert str(of) == "4 of 5 stages done" and not of.live


def test_many_that_run_are_counted(progress: Progress) -> None:
    for job, name in enumerate(("teacher", "student@a-0", "student@a-1", "figure")):
        progress.note(event(LogEvent.JOB_INFO, jobid=job, rule_name=name))
    assert "running: teacher (0 s), student@a-0 (0 s), student@a-1 (0 s) and 1 more;" in str(progress)


def test_times_are_those_of_records_and_of_the_file_that_git_keeps(tmp_path: Path) -> None:
    assert past_costs(tmp_path) == {}
    (tmp_path / "results/records").mkdir(parents=True)
    (tmp_path / "results/ledger.json").write_text(json.dumps({"records": {"a": {"own": {"seconds": 5}}, "b": {"own": {"seconds": 6.5}}}}))
    (tmp_path / "results/records/b.json").write_text(json.dumps({"stage": "b", "seconds": 7}))
    for name, text in (("c", "{"), ("d", "[]"), ("e", '{"seconds": "long"}'), ("f", "null")):
        (tmp_path / f"results/records/{name}.json").write_text(text)
    assert past_costs(tmp_path) == {"a": 5, "b": 7}
    (tmp_path / "results/ledger.json").write_text("[1]")
    assert past_costs(tmp_path) == {"b": 7}


def test_a_log_gets_a_line_for_each_stage_that_ends_and_nothing_else(progress: Progress) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    Display(progress, handler)
    for record in (event(LogEvent.JOB_INFO, jobid=3, rule_name="teacher"), event(LogEvent.JOB_FINISHED, job_id=3)):
        handler.handle(record)
    assert stream.getvalue() == "\n\n2 of 5 stages done; about 0 s left\n" and CLEAR not in stream.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (9000, "2.5 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
