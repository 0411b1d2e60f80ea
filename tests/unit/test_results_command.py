"""`backtrail results` against the table that it prints."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from backtrail.cli import results
from backtrail.errors import UserError
from backtrail.tables import load_csv

ROOT = Path(__file__).parents[2]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)

    def of(*arguments: str) -> list[str]:
        return CliRunner().invoke(results.command, list(arguments), catch_exceptions=False).output.splitlines()

    return of


def test_every_row_is_there_with_its_mean_and_spread_to_four_digits(printed) -> None:
    head, *lines = printed()
    table = load_csv(ROOT / "reports/tables/results.csv")
    metric = head.split()[-1]
    assert len(lines) == len(table) and max(map(len, [head, *lines])) <= 100
    for line, row in zip(lines, table.to_dict("records"), strict=True):
        assert line.split()[0] == row["method"] and ("untrained" in line) is not bool(row["trained"])
        mean, *std = line.partition("(untrained)")[2].split()[4:] if "untrained" in line else line.split()[5:]
        assert float(mean.replace(",", "")) == pytest.approx(row[f"{metric}_mean"], rel=5e-4)
        assert (math.isnan(row[f"{metric}_std"]) and not std) or float(std[-1]) == pytest.approx(row[f"{metric}_std"], rel=5e-4)


def test_metrics_are_asked_for_by_name_or_kind(printed) -> None:
    assert printed("recall")[0].split()[-2:] == ["recall_classifier", "recall_efficientnet_lite0"]
    assert printed("kid_classifier", "fd_classifier")[0].split()[-2:] == ["kid_classifier", "fd_classifier"]
    with pytest.raises(UserError, match=r"has no metric nosuch; it has fd_"):
        printed("nosuch")


def test_without_a_table_it_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"results\.csv is missing or empty: `make repro`"):
        CliRunner().invoke(results.command, catch_exceptions=False)
