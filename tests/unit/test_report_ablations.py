"""Ablations: what a figure's table holds, and a sentence that is right when the numbers move."""

import pandas as pd
import pytest
from scipy import stats
from synthetic_suite import METRIC, SEEDS, SOLVERS, parameters, write_csv, write_parameters, write_suite

from backtrail.errors import UserError
from backtrail.parameters.base import validate
from backtrail.parameters.report import Axis, Report, SamplerAxis
from backtrail.report.ablations import axis_caption, axis_data, axis_sentence, below, render_axis, sampler_axis_data, sampler_axis_sentence
from backtrail.report.collect import open_suite

# Last three evaluations and what a mean over them gives; the first row and the one before the last three must not count.
ENDS = {"low": [8.0, 8.2, 8.4], "base": [10.0, 10.5, 11.0], "near": [9.6, 10.3, 11.3], "high": [20.0, 21.0, 22.0]}


def axis(**methods):
    return Axis(label="Knob", shows="What the knob does", baseline="base", methods=methods)


def write_method(folder, method, ends, cost=8.0, nfe=1):
    for seed, end in zip(SEEDS, ends, strict=True):
        values = [99.0, 70.0, end - 1, end, end + 1]
        rows = [
            {"update": 5 * i, "total_updates": 24 + 5 * i, "cost": 96 + cost * 5 * i, "node": 0, "nfe": nfe, "fd_classifier": fd}
            for i, fd in enumerate(values)
        ]
        write_csv(folder / f"results/curves/{method}/seed{seed}.csv", rows)


@pytest.fixture
def folder(tmp_path):
    folder = write_suite(tmp_path)
    for method, ends in ENDS.items():
        write_method(folder, method, ends)
    values = parameters()
    values["students"] |= {method: {} for method in ENDS}
    values["report"]["axes"] = {"knob": axis(low=1, base=2, high=30).model_dump()}
    write_parameters(folder, values)
    return folder


def test_an_end_is_the_mean_of_the_last_three_evaluations(folder):
    data = axis_data(open_suite(folder), axis(low=1, base=2, high=30))
    assert data.set_index(["method", "seed"])["fd_classifier"].to_dict() == pytest.approx(
        {(method, seed): ENDS[method][seed] for method in ("low", "base", "high") for seed in SEEDS}
    )
    assert set(data["n_evaluations"]) == {3} and set(data["total_updates"]) == {44} and set(data["cost"]) == {96 + 8 * 20}
    assert data.groupby("method")["value"].first().to_dict() == {"low": 1, "base": 2, "high": 30}
    assert list(data.loc[data["baseline"], "method"].unique()) == ["base"]
    assert "the mean of the last 3 evaluations" in axis_caption(axis(low=1, base=2), data)


def sentence(folder, **methods):
    of = axis(**methods)
    return axis_sentence(of, axis_data(open_suite(folder), of))


def test_a_margin_beyond_chance_is_decided(folder):
    text = sentence(folder, low=1, base=2, high=30)
    assert (
        "lowest at 1 (8.2, seeds 8 to 8.4), by 2.3 (22%) below the baseline 2 (10.5, seeds 10 to 11): more than chance over seeds." in text
    )
    assert "undecided" not in text
    assert "Worse than the baseline by more than chance: 30." in text


def test_a_margin_within_chance_is_undecided(folder):
    text = sentence(folder, near=1, base=2, high=30)
    assert "lowest at 1 (10.4, seeds 9.6 to 11.3), by 0.1 (1%) below the baseline 2 (10.5, seeds 10 to 11): undecided at this size" in text
    assert text.endswith("Worse than the baseline by more than chance: 30. Cost: 256 F each.")


def test_seeds_that_lie_apart_are_not_enough(folder):
    """Every seed of one lies below every seed of the other, and three pairs whose differences are 0.1, 2 and 4 are no evidence."""
    write_method(folder, "low", [9.9, 8.5, 7.0])
    assert "below the baseline 2 (10.5, seeds 10 to 11): undecided at this size" in sentence(folder, low=1, base=2)


def test_more_values_on_an_axis_ask_for_more(folder):
    one, other = pd.Series(ENDS["low"]), pd.Series(ENDS["low"]) + pd.Series([1.0, 1.3, 1.6])
    p_value = stats.ttest_rel(other, one).pvalue
    assert [below(one, other, int(0.05 / p_value) + more) for more in (0, 1)] == [True, False]


def test_a_baseline_that_is_best_is_held_against_the_next(folder):
    text = sentence(folder, base=2, high=30)
    assert "lowest at the baseline 2 (10.5, seeds 10 to 11), by 10 (50%) below the next best, 30 (21, seeds 20 to 22): more than" in text


def test_two_seeds_decide_nothing(folder):
    of = axis(low=1, base=2, high=30)
    data = axis_data(open_suite(folder), of)
    text = axis_sentence(of, data[data["seed"] < 2])
    assert "undecided at this size, 3 seeds are needed" in text and "Worse" not in text


def test_the_cost_is_part_of_the_sentence(folder):
    assert sentence(folder, low=1, base=2).endswith("Cost: 256 F each.")
    write_method(folder, "low", ENDS["low"], cost=8.02)
    assert sentence(folder, low=1, base=2).endswith("Cost: 256 to 256 F, equal within 1 %.")
    write_method(folder, "low", ENDS["low"], cost=16.0)
    assert sentence(folder, low=1, base=2).endswith("Cost: 256 to 416 F.")


def test_different_numbers_of_evaluations_are_not_compared(folder):
    write_method(folder, "low", ENDS["low"], nfe=2)
    with pytest.raises(UserError, match="compares methods at one NFE, and the curves were evaluated at: low 2, base 1"):
        axis_data(open_suite(folder), axis(low=1, base=2))


def test_an_axis_needs_no_samples_and_no_metrics(folder):
    for used in ("results/metrics", "results/samples", "results/paths", "results/mismatch"):
        (folder / used).rename(folder / f"{used}-away")
    render_axis("knob", folder)
    made = {file.suffix for file in (folder / "reports/axes").iterdir()}
    assert made == {".png", ".svg", ".pdf", ".csv", ".md"}
    assert (folder / "reports/axes/knob.md").read_text(encoding="utf-8").startswith("Knob: FD-classifier is lowest at 1 ")
    with pytest.raises(UserError, match="report has no axis lever; known: knob"):
        render_axis("lever", folder)


def test_samplers_are_compared_at_each_number_of_evaluations(folder):
    of = SamplerAxis(label="Solver", shows="What the solver does", baseline="euler", samplers={"euler": "Euler", "dpmpp-3m": "DPM"})
    data = sampler_axis_data(open_suite(folder), of)
    assert set(data["metric"]) == {METRIC}
    found = data.set_index(["method", "nfe"])["mean"].to_dict()
    assert found == {(name, nfe): fd for name in ("euler", "dpmpp-3m") for nfe, fd in SOLVERS[name].items()}
    text = sampler_axis_sentence(of, data)
    assert "NFE 2 DPM (341, 79 below the baseline); NFE 3 DPM (258, 92 below" in text and "The baseline is Euler" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"baseline": "other"}, "the baseline other is none of the axis's entries"),
        ({"methods": {"base": 1}}, "two or more entries of different values"),
        ({"methods": {"base": 1, "low": 1}}, "two or more entries of different values"),
        ({"methods": {"base": 1, "low": None}}, "report.axes.knob.methods.low"),
        ({"colour": 1}, "unknown key report.axes.knob.colour"),
    ],
)
def test_an_axis_that_cannot_be_drawn_is_refused(change, sentence):
    of = {"label": "Knob", "shows": "x", "baseline": "base", "methods": {"base": 1, "low": 2}} | change
    with pytest.raises(UserError) as error:
        validate(Report, parameters()["report"] | {"axes": {"knob": of}}, "report")
    assert sentence in str(error.value)


def test_a_method_that_the_suite_does_not_have_is_named():
    report = Report.model_validate(parameters()["report"] | {"axes": {"knob": axis(base=1, low=2).model_dump()}})
    report.check_axes(["base", "low"], [])
    with pytest.raises(ValueError, match=r"report.axes.knob names low, and the suite has no such method; known: base, high"):
        report.check_axes(["base", "high"], [])
