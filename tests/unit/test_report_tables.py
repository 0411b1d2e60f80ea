"""The tables: values equal to the metric files, the papers' numbers with their sources, and text that stands for itself in every format."""

import csv
import json
import re

import pandas as pd
import pytest
import yaml
from synthetic_suite import METRIC, SEEDS, STUDENTS, parameters, write_parameters, write_suite

from backtrail.errors import UserError
from backtrail.report.claims import table_metric
from backtrail.report.collect import open_suite
from backtrail.report.headline import FILE as FILE_OF_HEADLINE
from backtrail.report.headline import save_headline
from backtrail.report.over_nfe import nfe_data
from backtrail.report.paper import FILE, paper_numbers
from backtrail.report.tables import (
    Table,
    against_paper,
    latex,
    load_results,
    markdown,
    plus_minus,
    render_table,
    results,
    results_for_readers,
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return open_suite(write_suite(tmp_path_factory.mktemp("suite")))


def test_results_are_the_metric_files_numbers(suite):
    table = results(suite).set_index(["method", "nfe"])
    for method, (trained, untrained) in STUDENTS.items():
        files = [json.loads((suite.folder / f"results/metrics/{method}/seed{seed}.json").read_text(encoding="utf-8")) for seed in SEEDS]
        for nfe in (*trained, *untrained):
            row = table.loc[(method, nfe)]
            assert row["n_seeds"] == 3 and row["trained"] == (nfe in trained)
            for metric in files[0]["values"]["student"][f"nfe{nfe}"]:
                values = pd.Series([file["values"]["student"][f"nfe{nfe}"][metric] for file in files])
                assert row[f"{metric}_mean"] == pytest.approx(values.mean(), rel=1e-12)
                assert row[f"{metric}_std"] == pytest.approx(values.std(), rel=1e-9)
                assert row[f"{metric}_min"] == values.min()
    assert table.loc[("dpmpp-3m", 5), f"{METRIC}_mean"] == 55.0
    assert pd.isna(table.loc[("dpmpp-3m", 5), f"{METRIC}_std"])
    assert table["cost_F"].xs("sfd-v").unique().tolist() == [270 * 18.0]


def test_students_under_guidance_have_rows_of_their_own(tmp_path):
    folder = write_suite(tmp_path)
    for seed in SEEDS:
        path = folder / f"results/metrics/sfd-v/seed{seed}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["values"]["student-w1.5"] = {"nfe4": {METRIC: 7.0 + seed}}
        path.write_text(json.dumps(content), encoding="utf-8")
    suite = open_suite(folder)
    table = results(suite)
    rows = table[(table["method"] == "sfd-v") & (table["nfe"] == 4)]
    assert list(rows["guidance"]) == [1.0, 1.5] and list(table.columns[2:4]) == ["nfe", "guidance"]
    guided = rows.iloc[1]
    assert (guided[f"{METRIC}_mean"], guided["n_seeds"], guided["paper_fid50k_cifar10"]) == (8.0, 3, "")
    assert rows.iloc[0]["paper_fid50k_cifar10"] != ""
    text = results_for_readers(suite, table)
    assert "4 (w = 1.5)" in [row[1] for row in text.rows]
    assert any(note.startswith("w: weight of classifier-free guidance") for note in text.notes)
    # Figures show it apart, and what claims compare is without guidance.
    drawn = nfe_data(suite).set_index(["method", "nfe", "guidance"])["mean"]
    assert [drawn["sfd-v", 4, w] for w in (1.0, 1.5)] == list(rows[f"{METRIC}_mean"])
    assert table_metric(suite, "sfd-v")[4].min() > 50


def test_paper_numbers_stand_beside_the_same_method_nfe_and_training_alone(suite):
    table = results(suite).set_index(["method", "nfe"])
    assert table.loc[("sfd-v", 2), ["paper_fid50k_cifar10", "paper_source_cifar10"]].tolist() == ["4.28", "SFD-T2"]
    assert table.loc[("sfd-v", 3), "paper_fid50k_cifar10"] == "3.50"
    assert table.loc[("disback", 1), ["paper_fid50k_imagenet64", "paper_source_imagenet64"]].tolist() == ["1.38", "DISBACK"]
    assert table.loc[("disback", 1), ["paper_fid50k_cifar10", "paper_source_cifar10"]].tolist() == ["unknown", ""]
    # The paper's SFD at NFE 3 was trained for NFE 3; ours at NFE 3 was not.
    assert table.loc[("sfd", 3), "paper_fid50k_cifar10"] == ""
    assert set(table["verdict"]) == {"no paper number for this data set"}
    assert "NOT comparable" in " ".join(results_for_readers(suite, results(suite)).notes)


def test_every_quoted_number_has_a_source():
    quoted = paper_numbers()
    assert all((number.source == "NONE") == (number.fid == "unknown") for number in quoted.numbers)


def test_a_number_without_a_source_is_refused(tmp_path):
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    content["numbers"][0]["source"] = "memory"
    (tmp_path / "numbers.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="memory"):
        paper_numbers(tmp_path / "numbers.yaml")


@pytest.mark.parametrize(
    ("fid", "std", "seeds", "expected"),
    [(4.30, 0.02, 3, "within spread (+0.02)"), (4.33, 0.02, 3, "differs by +0.05"), (4.30, None, 1, "differs by +0.02, one seed")],
)
def test_fid_on_the_papers_data_set_is_judged_by_its_spread(fid, std, seeds, expected):
    number = paper_numbers().find("sfd-v", 2, "cifar10")
    assert against_paper(number, pd.Series({"fid_inception_mean": fid, "fid_inception_std": std, "n_seeds": seeds})) == expected


def test_another_metric_is_not_comparable_even_on_the_papers_data_set(tmp_path):
    folder = write_suite(tmp_path)
    write_parameters(folder, parameters() | {"data": {"name": "cifar10"}})
    suite = open_suite(folder)
    table = results(suite)
    assert table.set_index(["method", "nfe"]).loc[("sfd-v", 2), "verdict"] == "not comparable: another metric"
    text = results_for_readers(suite, table)
    assert "Against the paper" in text.headings
    assert {len(row) for row in text.rows} == {len(text.headings)}


def test_written_tables_read_back_and_are_rendered_alike_twice(suite):
    files = [suite.folder / f"reports/tables/{name}.{kind}" for name in ("results", "claims") for kind in ("csv", "md", "tex")]
    seen = []
    for _ in range(2):
        for name in ("results", "claims"):
            render_table(name, suite.folder)
        seen.append([file.read_bytes() for file in files])
    assert seen[0] == seen[1]
    pd.testing.assert_frame_equal(load_results(files[0]), results(suite), rtol=1e-8, check_dtype=False)
    with open(files[3], newline="", encoding="utf-8") as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {"held", "not held", "undecided at this size"}
    lines = files[4].read_text(encoding="utf-8").splitlines()
    undecided = next(line for line in lines if "undecided" in line).split(" | ")
    assert re.fullmatch(r"-?[\d.]+ to [\d.]+ \(9\d\.\d%\)", undecided[7]) and undecided[-1].strip(" |").isdigit()


def test_every_row_of_the_readers_tables_has_every_column(suite):
    render_table("results", suite.folder)
    lines = (suite.folder / "reports/tables/results.md").read_text(encoding="utf-8").splitlines()
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1
    body = (suite.folder / "reports/tables/results.tex").read_text(encoding="utf-8").split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert {line.count("&") for line in body.strip().splitlines()} == {widths.pop() - 2}
    assert "| SFD-v | 5 | 3 | 52.0 ± 1.3 |" in "\n".join(lines)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (13.912, 0.358, "13.91 ± 0.36"),
        (115.0, 2.99, "115.0 ± 3.0"),
        (0.0505, 0.00131, "0.0505 ± 0.0013"),
        (1234.6, 123.4, "1,235 ± 123"),
        (34.1, float("nan"), "34.1"),
        (34.1, 0.0, "34.1"),
    ],
)
def test_rounding_follows_the_spread(mean, std, text):
    assert plus_minus(mean, std) == text


HOSTILE = r"a|b_c*<script>&$x^2$\{50%} #1 [n](u)" + "\nnext"


def test_hostile_text_stands_for_itself_in_markdown_and_latex():
    table = Table("t", ["h"], [[HOSTILE]], [])
    row = next(line for line in markdown(table).splitlines() if "script" in line)
    assert row == r"| a\|b\_c\*\<script\>&$x^2$\\{50%} #1 \[n\](u) next |"
    body = latex(table).split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    assert body == (r"a|b\_c*\textless{}script\textgreater{}\&\$x\textasciicircum{}2\$\textbackslash{}\{50\%\} \#1 {[}n{]}(u) next \\")


def test_an_unknown_table_is_one_sentence(suite):
    with pytest.raises(UserError, match="there is no table banana; known: results, claims"):
        render_table("banana", suite.folder)


def test_the_headline_has_one_number_of_each_model(tmp_path):
    folder = write_suite(tmp_path)
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) | {"teacher_samples": {"reference": "heun"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    save_headline(folder)
    shown, table = (
        json.loads((folder / FILE_OF_HEADLINE).read_text(encoding="utf-8")),
        results(open_suite(folder)).set_index(["method", "nfe"]),
    )
    assert set(shown) == {*STUDENTS, "teacher"}
    for method, (trained, _) in STUDENTS.items():
        assert shown[method] == pytest.approx(table.loc[(method, max(trained)), f"{METRIC}_mean"], rel=1e-8)
    assert shown["teacher"] == table.loc[("heun", table.loc["heun"].index.max()), f"{METRIC}_mean"]
