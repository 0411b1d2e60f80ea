"""Within tolerance is a verdict of its own, and how much is allowed is measured by the machine that audits."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from backtrail.audit.audit import Audit, audit
from backtrail.audit.findings import BROKEN, CLOSE
from backtrail.audit.rounding import is_near
from backtrail.cli.audit import recomputations
from backtrail.ledger.record import processor
from tamper.forging import edit_record, rewrite_ledger
from tamper.hand_made import LAST

THIS_MACHINE = {"packages": {"torch": metadata.version("torch")}, "host": {"system": "Linux", "machine": "x86_64", "cpus": 1}}
METRIC = "results/metrics/disback/seed0.json"
GPU = {"name": "NVIDIA H100", "driver": "1", "cuda": "12", "cudnn": 9}


def audited(folder: Path, fd: float, **said: Any) -> Audit:
    """The stage level on a suite whose distance is written as `fd`, with a record and a lock that fit it in every digest."""
    (folder / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": fd}}}}))
    edit_record(folder, "metrics", lambda record: record.update(said))
    rewrite_ledger(folder)
    return audit(folder, recomputations(("stage",), ("metrics",), folder))


def test_what_rounding_does_here_it_may_have_done_elsewhere_and_is_not_called_the_same(suite: Path) -> None:
    """Another instruction set moves the distance by 0.001 here: 0.002 is within three times that."""
    done = audited(suite, 4.252)
    (finding,) = done.findings
    assert finding.verdict == CLOSE and done.exit_code == 5
    assert "0.00047 apart, and this machine's own rounding takes it 0.00024 apart: within tolerance" in finding.message
    assert [one.verdict for one in done.judged] == [CLOSE]
    assert any("metrics run again in" in note and "0 of 1 outputs the same, 1 within tolerance" in note for note in done.notes)


@pytest.mark.parametrize("said", [{}, {"device": GPU, "gpu_seconds": 1.0}], ids=["another processor", "a GPU"])
def test_no_record_buys_more_than_that(suite: Path, said: dict[str, Any]) -> None:
    """Five in a hundred were allowed to whoever claimed a GPU."""
    done = audited(suite, 4.26, **said)
    (finding,) = done.findings
    assert finding.verdict == BROKEN and done.exit_code == 30 and "0.0023 apart" in finding.message


def test_where_the_record_names_this_machine_nothing_may_differ(suite: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("on a machine with a GPU no record is of this machine")
    said = {**THIS_MACHINE, "host": {**THIS_MACHINE["host"], "processor": processor()}}
    (finding,) = audited(suite, 4.252, **said).findings
    assert finding.verdict == BROKEN and "apart" not in finding.message


@pytest.mark.parametrize(
    ("distances", "bounds", "near"),
    [
        ([2e-4, 0.0], [1e-4, 0.0], True),
        ([4e-4, 0.0], [1e-4, 0.0], False),
        ([9e-5, 9e-5], [1e-9, 0.0], True),
        ([2e-4, 1e-6], [0.0, 1e-3], False),  # one value's rounding allows another nothing
        ([1e-9], [0.0], False),
        ([0.06], [0.05], False),
        ([0.0], [], False),
    ],
)
def test_each_value_may_move_by_its_own_rounding(distances: list[float], bounds: list[float], near: bool) -> None:
    assert is_near(distances, bounds) is near


@pytest.mark.xdist_group("tamper")
def test_a_record_that_lies_about_its_machine_buys_no_metric(ledger: Path) -> None:
    """The metric level too measures what rounding does here; what the record claims, of GPU and processor, allows nothing by itself."""

    def again(factor: float) -> Audit:
        path = ledger / METRIC
        content = json.loads(path.read_text(encoding="utf-8"))
        content["values"]["student"]["nfe1"]["fd_classifier"] *= factor
        path.write_text(json.dumps(content, sort_keys=True, indent=2) + "\n", encoding="utf-8")
        rewrite_ledger(ledger)
        return audit(ledger, recomputations(("metric",), ("metrics@disback-0",), ledger))

    def lie(record: dict[str, Any]) -> None:
        record |= {"device": GPU, "gpu_seconds": 1.0, "host": record["host"] | {"processor": "Babbage's Engine"}}

    edit_record(ledger, "metrics@disback-0", lie)
    done = again(1 + 1e-6)
    (finding,) = [one for one in done.findings if one.subject == METRIC]
    assert (
        finding.verdict == CLOSE
        and finding.message.endswith("within tolerance")
        and "this machine's own rounding takes it" in finding.message
    )
    assert any("0 the same to the last digit, 1 within tolerance" in note for note in done.notes) and done.exit_code in (5, 7)
    (finding,) = [one for one in again(1 - 4e-4).findings if one.subject == METRIC]
    assert finding.verdict == BROKEN and "this machine's own rounding takes it" in finding.message


def test_the_same_bytes_are_the_same_wherever_they_were_made(suite: Path) -> None:
    assert audited(suite, 4.25).exit_code == 0
