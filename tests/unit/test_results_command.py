"""`backtrail results` against the table that it prints."""

import math
import shutil
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
        printed("recall", "nosuch")


def test_a_suite_of_a_published_latent_teacher_has_a_table_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reports/tables").mkdir(parents=True)
    table = "method,nfe,guidance,n_seeds,trained,fid_30k_mean,fid_30k_std\nsfd-v,4,7.5,3,True,13.25,0.5\n"
    (tmp_path / "reports/tables/latent.csv").write_text(table, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    head, line = CliRunner().invoke(results.command, catch_exceptions=False).output.splitlines()
    assert head.split()[-1] == "fid_30k" and line.split() == ["sfd-v", "4", "7.5", "3", "13.25", "±", "0.5"]


def test_without_a_table_it_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in (
        ("fashion-mnist-teacher", "this suite makes no table of methods"),
        ("study", r"results\.csv is missing or empty: `dvc repro`"),
    ):
        shutil.copy(ROOT / "suites" / name / "params.yaml", tmp_path)
        with pytest.raises(UserError, match=said):
            CliRunner().invoke(results.command, catch_exceptions=False)


HEAD = "method,nfe,guidance,n_seeds,trained,cost_F,fid_mean,fid_std\n"
FIRST, SECOND = ("sfd-v,4,1.0,3,True,10.0,13.25,0.5\n", "sfd-v,5,1.0,3,True,10.0,{},{}\n")
OURS, THEIRS = SECOND.format("12.0", "0.4"), SECOND.format("11.0", "0.4")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (f"{FIRST}<<<<<<< HEAD\n{OURS}=======\n{THEIRS}>>>>>>> other\n", "line 3 is a mark of git's, <<<<<<<, that both sides have"),
        (f"{FIRST}{OURS}>>>>>>> other\n", "line 4 is a mark of git's, >>>>>>>"),
        (f"{FIRST}\n{SECOND.format('n.a.', '')}", "line 4: fid_mean is 'n.a.', not a number"),
        (FIRST + SECOND.format("12.0", "?"), "line 3: fid_std is '?', not a number"),
        (f"{FIRST}sfd-v,5\n", "line 3 has 2 cells, and the table 8 columns"),
    ],
)
def test_a_table_that_is_none_is_refused_by_its_line(rows: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "reports/tables/results.csv"
    table.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    table.write_text(HEAD + FIRST + OURS, encoding="utf-8")
    assert CliRunner().invoke(results.command, ["fid"], catch_exceptions=False).output.splitlines()[1].split()[-3:] == ["13.25", "±", "0.5"]
    table.write_text(HEAD + rows, encoding="utf-8")
    with pytest.raises(UserError) as error:
        CliRunner().invoke(results.command, ["fid"], catch_exceptions=False)
    assert str(error.value).startswith(f"reports/tables/results.csv, {said}") and "\n" not in str(error.value)


def test_a_conflict_over_the_columns_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "reports/tables/results.csv"
    table.parent.mkdir(parents=True)
    table.write_text(f"<<<<<<< HEAD\n{HEAD}{FIRST}=======\n{HEAD}{OURS}>>>>>>> other\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"results\.csv, line 1 is a mark of git's, <<<<<<<"):
        CliRunner().invoke(results.command, ["fid"], catch_exceptions=False)
