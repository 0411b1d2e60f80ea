"""Within tolerance is a verdict of its own, and how much is allowed is measured by the machine that audits."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from backtrail.audit.audit import Audit, audit
from backtrail.audit.findings import BROKEN, CLOSE
from backtrail.cli.audit import recomputations
from backtrail.ledger.record import processor
from tamper.forging import edit_record, rewrite_ledger
from tamper.hand_made import LAST, build

THIS_MACHINE = {"packages": {"torch": metadata.version("torch")}, "host": {"system": "Linux", "machine": "x86_64", "cpus": 1}}
GPU = {"name": "NVIDIA H100", "driver": "1", "cuda": "12", "cudnn": 9}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return build(tmp_path / "suite")


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


def test_the_same_bytes_are_the_same_wherever_they_were_made(suite: Path) -> None:
    assert audited(suite, 4.25).exit_code == 0
