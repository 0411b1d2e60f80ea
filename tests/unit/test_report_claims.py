"""The verdict rule on constructed data, and the claims on a suite whose numbers are known."""

import json

import pandas as pd
import pytest
from synthetic_suite import METRIC, SEEDS, parameters, write_parameters, write_suite

from backtrail.parameters.report import Comparison
from backtrail.report.claims import CLAIMS, JUDGED_BY, better_at_equal_cost, judge_all, rows
from backtrail.report.collect import open_suite
from backtrail.report.statements import STATEMENTS
from backtrail.report.verdicts import HELD, NOT_HELD, NOT_RUN, UNDECIDED


def test_one_teacher_stands_against_every_seed():
    pair = rows("NFE 2", pd.Series({0: 1.0, 1: 2.0, 2: 4.0}), pd.Series({0: 3.0}))
    assert list(pair["margin"]) == [2.0, 1.0, -1.0]


def test_seeds_are_paired_by_number_not_by_place():
    pair = rows("x", pd.Series({0: 1.0, 1: 2.0, 2: 3.0}), pd.Series({2: 3.5, 1: 2.5, 0: 1.5}))
    assert list(pair["margin"]) == [0.5, 0.5, 0.5]


def test_claims_on_the_synthetic_suite(tmp_path):
    table = judge_all(open_suite(write_suite(tmp_path))).set_index("claim")
    lost = {"disback-beats-diff-instruct-curve", "disback-beats-diff-instruct"}
    assert set(table.index[table["verdict"] == NOT_HELD]) == lost
    open_yet = {"sfd-v-beats-dpmpp", "sfd-v-beats-sfd"}  # all signs speak for them, and three seeds are too few to say so
    assert set(table.index[table["verdict"] == UNDECIDED]) == open_yet
    assert set(table.index[table["verdict"] == HELD]) == {claim.key for claim in CLAIMS} - lost - open_yet
    assert set(table.index[table["seeds_to_decide"].notna()]) == open_yet
    assert ((table["low"] > 0) == (table["verdict"] == HELD)).all() and ((table["high"] < 0) == (table["verdict"] == NOT_HELD)).all()
    assert JUDGED_BY.keys() == STATEMENTS.keys()
    nfe = table.loc["sfd-v-beats-dpmpp"]
    assert (nfe["n_conditions"], nfe["n_for"], nfe["n_against"], nfe["weakest_condition"]) == (4, 3, 0, "NFE 5")
    means = [
        pd.Series(
            [
                json.loads((tmp_path / f"results/metrics/sfd-v/seed{s}.json").read_text(encoding="utf-8"))["values"]["student"]["nfe5"][
                    METRIC
                ]
                for s in SEEDS
            ]
        )
    ]
    assert nfe["weakest_ours"] == pytest.approx(means[0].mean(), rel=1e-12)
    assert nfe["weakest_margin"] == pytest.approx(55.0 - means[0].mean(), rel=1e-12)
    assert nfe["weakest_margin_std"] == pytest.approx(means[0].std(), rel=1e-12)


def test_spread_decides_and_not_signs(tmp_path):
    """One seed nearer to the solver's 341 than the others' 145: every margin still speaks for the claim."""
    suite = write_suite(tmp_path)
    before = judge_all(open_suite(suite)).set_index("claim").loc["sfd-beats-dpmpp"]
    path = suite / "results/metrics/sfd/seed1.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["values"]["student"]["nfe2"][METRIC] = 300.0
    path.write_text(json.dumps(content), encoding="utf-8")
    after = judge_all(open_suite(suite)).set_index("claim").loc["sfd-beats-dpmpp"]
    assert (before["verdict"], after["verdict"]) == (HELD, UNDECIDED)
    assert after["low"] < 0 < after["weakest_margin"] < after["high"] and after["seeds_to_decide"] > 3


def test_one_claim_more_widens_the_others_intervals(tmp_path):
    suite = open_suite(write_suite(tmp_path))
    some, every = judge_all(suite, CLAIMS[:2]).set_index("claim"), judge_all(suite).set_index("claim")
    assert (every["level"][some.index] > some["level"]).all() and (every["low"][some.index] < some["low"]).all()


def test_methods_that_are_not_there_are_not_run(tmp_path):
    suite = write_suite(tmp_path)
    write_parameters(suite, parameters() | {"start": {"teacher": ["diff-instruct"]}, "students": {"diff-instruct": {}, "sfd": {}}})
    table = judge_all(open_suite(suite)).set_index("claim")["verdict"]
    assert table["sfd-beats-dpmpp"] == HELD
    assert set(table.drop("sfd-beats-dpmpp")) == {NOT_RUN}


def test_equal_cost_cuts_the_longer_curve(tmp_path):
    """The cheaper run ends at 100 F; what the dearer one reaches after that must not count."""
    suite = write_suite(tmp_path)
    curves = {
        "disback": [(20, 9.0), (60, 8.0), (90, 7.0), (100, 6.0), (200, 1.0)],
        "diff-instruct": [(10, 9.0), (50, 8.0), (80, 7.5), (100, 6.5)],
    }
    for method, points in curves.items():
        for seed in SEEDS:
            table = pd.DataFrame(
                [{"update": c, "total_updates": c, "cost": c, "node": 0, "nfe": 1, "fd_classifier": fd} for c, fd in points]
            )
            table.to_csv(suite / f"results/curves/{method}/seed{seed}.csv", index=False)
    found = better_at_equal_cost("disback", "diff-instruct")(open_suite(suite))
    assert set(found["condition"]) == {"cost 100 F"}
    assert set(found["ours"]) == {(8.0 + 7.0 + 6.0) / 3}
    assert found["margin"].tolist() == pytest.approx([(8.0 + 7.5 + 6.5) / 3 - 7.0] * 3)


def test_a_suite_claims_what_its_parameters_say_in_the_same_table(tmp_path):
    suite = write_suite(tmp_path)
    own = {"turned": {"text": "Diff-Instruct's student beats DisBack's", "ours": "diff-instruct", "other": "disback"}}
    p = parameters()
    write_parameters(suite, p | {"report": {**p["report"], "comparisons": own}})
    table = judge_all(open_suite(suite)).set_index("claim")
    assert list(table.index) == [*STATEMENTS, "own-turned"]
    papers, ours = table.loc["disback-beats-diff-instruct"], table.loc["own-turned"]
    assert (papers["verdict"], ours["verdict"], ours["source"]) == (NOT_HELD, HELD, "this suite")
    assert ours["weakest_margin"] == pytest.approx(-papers["weakest_margin"])
    unknown = Comparison(**{**own["turned"], "other": "disbak"})
    with pytest.raises(
        ValueError, match=r"report.comparisons.x names disbak, and the suite has no such method; known: diff-instruct, disback"
    ):
        open_suite(suite).report.model_copy(update={"comparisons": {"x": unknown}}).check_axes(["disback", "diff-instruct"], [])
