"""The figures: the same bytes on every run, the numbers of the metric files in them, and nothing cut off."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from synthetic_suite import (
    METRIC,
    SEEDS,
    SIGMAS,
    SOLVERS,
    STUDENTS,
    parameters,
    pictures,
    ripple,
    write_json,
    write_parameters,
    write_suite,
)

from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.layout import metrics
from backtrail.report.collect import open_suite, quality
from backtrail.report.figures import FIGURES, render_figure
from backtrail.report.names import LOOKS, look
from backtrail.report.seeds import in_noise_units
from backtrail.report.style import FORMATS, drawing

RENDER = "import sys; from backtrail.report.figures import FIGURES, render_figure; [render_figure(name, sys.argv[1]) for name in FIGURES]"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return open_suite(write_suite(tmp_path_factory.mktemp("suite")))


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((folder / "reports/figures").iterdir())}


@pytest.fixture(scope="module")
def rendered(suite):
    for name in FIGURES:
        render_figure(name, suite.folder)
    return suite.folder


@pytest.mark.slow
def test_another_process_renders_the_same_bytes(rendered, tmp_path):
    """Another hash seed, another user style, another time zone and another folder must not show in the files, nor the date."""
    style = tmp_path / "matplotlibrc"
    style.write_text("font.size: 17\nlines.linewidth: 9\nsavefig.dpi: 33\n", encoding="utf-8")
    folder = write_suite(tmp_path / "again")
    environment = os.environ | {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(style), "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", RENDER, str(folder)], check=True, env=environment)
    assert digests(folder) == digests(rendered)
    assert set(digests(folder)) == {f"{name}.{kind}" for name in FIGURES for kind in (*FORMATS, "csv")}


def test_what_varies_one_thing_is_left_to_its_axis(rendered, tmp_path):
    """Nor is anything of it read: here it has not been measured. Neither is the other axis's baseline, which stays in all the same."""
    folder, values = write_suite(tmp_path), parameters()
    values["students"]["slow"] = {}
    values["start"]["teacher"].append("slow")
    common = {"label": "Knob", "shows": "What the knob does"}
    values["report"]["axes"] = {
        "knob": common | {"baseline": "disback", "methods": {"diff-instruct": 1, "disback": 2, "slow": 3}},
        "other": common | {"baseline": "plain", "methods": {"plain": 1, "slow": 2}},
    }
    values["report"]["sampler_axes"] = {"t": common | {"baseline": "heun", "samplers": {"heun": 1, "late": 2}}}
    write_parameters(folder, values)
    measured = folder / metrics()
    content = load_json(measured)
    write_json(measured, content | {"values": content["values"] | {"late": content["values"]["heun"]}})
    varying = open_suite(folder)
    assert varying.varied == {"slow", "late"} and "slow" in varying.methods() and "late" in set(quality(varying.overview())["method"])
    for name in FIGURES:
        render_figure(name, folder)
    assert digests(folder) == digests(rendered)


def test_a_figure_of_what_varies_alone_shows_it(tmp_path):
    """An axis may be whether a path is recorded: its baseline has none to show."""
    folder, values = write_suite(tmp_path), parameters()
    shutil.copytree(folder / "results/paths/disback", folder / "results/paths/mine")
    values["students"] = {"diff-instruct": {}, "mine": {}}
    values["start"]["teacher"] = ["diff-instruct", "mine"]
    axis = {"label": "Path", "shows": "Its worth", "baseline": "diff-instruct", "methods": {"diff-instruct": "none", "mine": "short"}}
    values["report"]["axes"] = {"recorded": axis}
    write_parameters(folder, values)
    render_figure("path", folder)
    assert set(pd.read_csv(folder / "reports/figures/path.csv")["method"]) == {"mine"}


@pytest.mark.parametrize("name", list(FIGURES))
def test_nothing_is_cut_off_and_the_legend_covers_no_data(suite, name):
    plot = FIGURES[name]
    with drawing():
        figure = plot.draw(plot.data(suite))
        FigureCanvasAgg(figure).draw()
        whole = figure.bbox
        for text in figure.findobj(matplotlib.text.Text):
            if text.get_visible() and text.get_text().strip():
                box = text.get_window_extent()
                if box.width and box.x1 > -1e3:  # ticks outside the view keep a place far away
                    inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
                    assert inside or _outside_view(text, figure), text.get_text()
        for legend in figure.legends:
            for axes in figure.axes:
                assert not legend.get_window_extent().overlaps(axes.get_tightbbox())


def _outside_view(text, figure) -> bool:
    """Labels of ticks beyond the limits exist as objects and are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis, *([axes.zaxis] if hasattr(axes, "zaxis") else [])):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    return not low <= tick.get_loc() <= high
    return False


def test_convergence_starts_at_the_recording(suite):
    data = FIGURES["convergence"].data(suite)
    start = data.groupby("method")["total_updates"].min()
    assert start.to_dict() == {"diff-instruct": 0, "disback": 24}
    row = data[(data["method"] == "disback") & (data["update"] == 50)].iloc[0]
    seeds = [(11.5 + 70 * np.exp(-50 / 18)) * (1 + 2 * ripple("disback", seed, 50)) for seed in SEEDS]
    assert (row["mean"], row["min"], row["max"]) == pytest.approx((np.mean(seeds), min(seeds), max(seeds)))
    assert (row["n_seeds"], row["floor"], row["cost"]) == (3, 0.8, 24 * 4 + 50 * 8)
    assert "DisBack starts after 24 of them" in FIGURES["convergence"].caption(data)


def test_drawn_lines_are_the_data(suite):
    data = FIGURES["convergence"].data(suite)
    with drawing():
        axes = FIGURES["convergence"].draw(data).axes[0]
    for method, rows in data.groupby("method"):
        line = next(line for line in axes.lines if to_rgb(line.get_color()) == to_rgb(LOOKS[method].colour) and len(line.get_xdata()) > 2)
        assert np.array_equal(line.get_xdata(), rows["total_updates"])
        assert np.array_equal(line.get_ydata(), rows["mean"])


def test_seeds_whose_recordings_differ_in_length_stay_one_curve(suite, tmp_path):
    """A recording that stops at convergence has another length for each seed: still one curve, at the mean place."""
    folder = write_suite(tmp_path)
    path = folder / "results/curves/disback/seed1.csv"
    table = pd.read_csv(path)
    table["total_updates"] += 6
    table.to_csv(path, index=False)
    data = FIGURES["convergence"].data(open_suite(folder))
    of = data[data["method"] == "disback"]
    assert set(of["n_seeds"]) == {3}
    assert of["total_updates"].min() == pytest.approx(26)


def test_noise_units():
    """For a score off by c/sigma and an error of c squared times sigma squared every measure reads c or c squared at every sigma."""
    sigma = pd.Series(SIGMAS)
    table = pd.DataFrame({"sigma": sigma, "raw_mean": 3 / sigma, "excess_mean": 9 * sigma**2, "difference_mean": 3 / sigma})
    for column in ("raw_std", "excess_std", "difference_std"):
        table[column] = 0.0
    found = in_noise_units(table)
    for column, value in (("raw_mean", 3), ("excess_mean", 9), ("difference_mean", 3)):
        assert found[column].tolist() == pytest.approx([value] * len(SIGMAS))


def test_nfe_marks_what_was_not_trained_for(suite):
    data = FIGURES["nfe"].data(suite).set_index(["method", "nfe"])
    assert not data.loc[("sfd-v", 6), "trained"] and data.loc[("sfd-v", 5), "trained"]
    with drawing():
        axes = FIGURES["nfe"].draw(FIGURES["nfe"].data(suite)).axes[0]
    orange = to_rgb(LOOKS["sfd-v"].colour)
    points = [(place, face[3]) for of in axes.collections for place, face, edge in _points(of) if tuple(edge[:3]) == orange]
    assert {round(nfe) for (nfe, _), alpha in points if alpha == 0} == set(STUDENTS["sfd-v"][1])
    assert {round(nfe) for (nfe, _), alpha in points if alpha == 1} == set(STUDENTS["sfd-v"][0])


def test_nfe_has_guided_points_and_the_converged_teacher_as_a_line(suite):
    data = FIGURES["nfe"].data(suite)
    guided = data[data["method"] == "sfd"].assign(guidance=1.5, nfe=lambda rows: 2 * rows["nfe"])
    data = pd.concat([data, guided], ignore_index=True)
    with drawing():
        figure = FIGURES["nfe"].draw(data)
    axes, far = figure.axes[0], data[(data["method"] == "heun") & (data["nfe"] > 12)]
    assert len(far) == 1
    across = [line for line in axes.lines if list(line.get_xdata()) == [0, 1] and to_rgb(line.get_color()) == to_rgb(LOOKS["heun"].colour)]
    assert [line.get_ydata()[0] for line in across] == far["mean"].tolist()
    assert axes.get_xlim()[1] < far["nfe"].iloc[0]  # no half of the figure is empty for one point
    half = [line for line in axes.lines if line.get_fillstyle() == "left"]
    assert sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in half) == sorted(zip(guided["nfe"], guided["mean"], strict=True))
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "SFD, guided (w = 1.5)" in told and f"Teacher, Heun, NFE {far['nfe'].iloc[0]}" in told


def _points(of):
    """Place, face and edge of every point of a collection of markers."""
    if not isinstance(of, PathCollection):
        return []
    return zip(of.get_offsets(), of.get_facecolor(), of.get_edgecolor(), strict=True)


def test_every_number_of_evaluations_has_its_own_bar(suite):
    """seaborn joins the ends of all bars at one place to one line unless they are told apart."""
    data = FIGURES["cost"].data(suite)
    with drawing():
        axes = FIGURES["cost"].draw(data).axes[0]
    bars = [segment for of in axes.collections if isinstance(of, LineCollection) for segment in of.get_segments()]
    assert sorted((min(bar[:, 1]), max(bar[:, 1])) for bar in bars) == pytest.approx(sorted(zip(data["min"], data["max"], strict=True)))


def test_cost_has_solvers_at_zero_and_trained_nfe_alone(suite):
    data = FIGURES["cost"].data(suite)
    assert set(data.loc[data["kind"] == "teacher", "cost"]) == {0.0}
    assert set(data.loc[data["method"] == "sfd-v", "nfe"]) == {2, 3, 4, 5}
    assert set(data.loc[data["method"] == "disback", "cost"]) == {1296.0}
    assert data["metric"].unique() == [METRIC]
    assert set(data.loc[data["method"] == "euler", "nfe"]) == {nfe for nfe in SOLVERS["euler"] if nfe <= 5}
    assert "heun" not in set(data["method"])


def test_samples_are_the_archives_pixels(suite):
    data = FIGURES["samples"].data(suite)
    assert list(data["row"].unique())[:3] == ["Real images (test set)", "Teacher, Heun, NFE 34", "Teacher, DPM-Solver++(3M), NFE 2"]
    real = data[data["row"] == "Real images (test set)"]
    assert np.array_equal(np.stack(list(real["pixels"])), pictures(12, 0.0)[:10])
    with drawing():
        figure = FIGURES["samples"].draw(data)
    shown = figure.axes[0].images[0].get_array()
    assert np.array_equal(shown[17 : 17 + 16, :16], pictures(1, 43.0 / 900)[0, 0])  # second row, first column


def test_the_csv_beside_a_figure_is_its_data(suite, rendered):
    written = pd.read_csv(rendered / "reports/figures/samples.csv")
    data = FIGURES["samples"].data(suite)
    assert "pixels" not in written.columns
    assert list(written["sha256"]) == [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in data["pixels"]]


def test_an_unknown_figure_is_one_sentence(suite):
    with pytest.raises(UserError, match="there is no figure banana; known: convergence, mismatch"):
        render_figure("banana", suite.folder)


def test_looks_are_different_and_a_new_method_has_one():
    assert len({(of.colour, of.marker) for of in LOOKS.values()}) == len({of.marker for of in LOOKS.values()}) == len(LOOKS)
    new = look("my-method")
    assert new == look("my-method")
    assert new.colour not in {of.colour for of in LOOKS.values()}
    assert new.marker not in {of.marker for of in LOOKS.values()}


def test_hostile_names_are_drawn_as_they_stand(suite):
    data = FIGURES["convergence"].data(suite)
    data["method"] = data["method"].replace({"disback": r"_$\frac{1}$ <b>&"})
    with drawing():
        figure = FIGURES["convergence"].draw(data)
        FigureCanvasAgg(figure).draw()
    assert any("frac" in text.get_text() for legend in figure.legends for text in legend.get_texts())


def test_tables_load_no_plotting():
    code = "import sys; from backtrail.report import tables; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_no_figure_is_kept_by_pyplot(suite, rendered):
    assert matplotlib.pyplot.get_fignums() == []
