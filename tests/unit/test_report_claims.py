"""The verdict rule on constructed data, and the claims on a suite whose numbers are known."""

import json

import pandas as pd
import pytest
from synthetic_suite import METRIC, SEEDS, parameters, write_parameters, write_suite

from backtrail.report.claims import (
    CLAIMS,
    HELD,
    JUDGED_BY,
    NOT_HELD,
    NOT_RUN,
    UNDECIDED,
    better_at_equal_cost,
    judge_all,
    rows,
    sides,
    verdict,
)
from backtrail.report.collect import open_suite
from backtrail.report.statements import STATEMENTS


def margins(**conditions):
    """A table of margins: condition -> values over seeds."""
    parts = [
        pd.DataFrame({"condition": name, "seed": range(len(values)), "ours": 0.0, "other": values, "margin": values})
        for name, values in conditions.items()
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"a": [1.0, 2.0, 0.1]}, HELD),
        ({"a": [1.0, 2.0, 0.1], "b": [3.0, 1.0, 1.0]}, HELD),
        ({"a": [1.0, 2.0, -0.1]}, UNDECIDED),
        ({"a": [1.0, 2.0, 0.0]}, UNDECIDED),
        ({"a": [0.0, 0.0, 0.0]}, UNDECIDED),
        ({"a": [-1.0, -2.0, -0.1]}, NOT_HELD),
        ({"a": [100.0, 100.0, 100.0], "b": [-0.1, -0.1, -0.1]}, NOT_HELD),
        ({"a": [1.0, 1.0, 1.0], "b": [-5.0, 5.0, 5.0]}, UNDECIDED),
        ({"a": [1.0, 2.0]}, UNDECIDED),
        ({"a": [-1.0, -2.0]}, UNDECIDED),
    ],
)
def test_verdict_rule(conditions, expected):
    assert verdict(margins(**conditions)) == expected


def test_no_margins_is_not_run():
    assert verdict(margins(a=[1.0]).iloc[:0]) == NOT_RUN


def test_sides_are_per_condition():
    assert sides(margins(a=[1.0, 1.0, 1.0], b=[-1.0, -1.0, -1.0], c=[1.0, -1.0, 1.0])).to_dict() == {"a": 1, "b": -1, "c": 0}


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
    assert JUDGED_BY.keys() == STATEMENTS.keys()
    assert set(table.index[table["verdict"] == HELD]) == {claim.key for claim in CLAIMS} - lost
    nfe = table.loc["sfd-v-beats-dpmpp"]
    assert (nfe["n_conditions"], nfe["n_for"], nfe["weakest_condition"]) == (4, 4, "NFE 5")
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


def test_one_seed_of_three_makes_a_claim_undecided(tmp_path):
    suite = write_suite(tmp_path)
    path = suite / "results/metrics/sfd-v/seed1.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["values"]["student"]["nfe5"][METRIC] = 56.0  # the solver reads 55
    path.write_text(json.dumps(content), encoding="utf-8")
    table = judge_all(open_suite(suite)).set_index("claim")["verdict"]
    assert table["sfd-v-beats-dpmpp"] == UNDECIDED


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
