"""The figures of the report: their registry, and the stage that renders one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from backtrail import layout
from backtrail.errors import UserError
from backtrail.report import degradation, over_nfe, over_training, trajectory
from backtrail.report.collect import Suite, open_suite
from backtrail.report.style import save_figure
from backtrail.tables import save_csv


@dataclass(frozen=True)
class Plot:
    """One figure: its title, the table behind it, the drawing of that table, and the caption that the table implies."""

    title: str
    data: Callable[[Suite], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    caption: Callable[[pd.DataFrame], str]


FIGURES = {
    "convergence": Plot(
        "Convergence, recording charged", over_training.convergence_data, over_training.draw_convergence, over_training.convergence_caption
    ),
    "mismatch": Plot(
        "Mismatch degree over training", over_training.mismatch_data, over_training.draw_mismatch, over_training.mismatch_caption
    ),
    "path": Plot("The degradation path", over_training.path_data, over_training.draw_path, over_training.path_caption),
    "nfe": Plot("Quality against NFE", over_nfe.nfe_data, over_nfe.draw_nfe, over_nfe.nfe_caption),
    "cost": Plot("Quality against fine-tuning cost", over_nfe.cost_data, over_nfe.draw_cost, over_nfe.cost_caption),
    "samples": Plot("Samples", over_nfe.samples_data, over_nfe.draw_samples, over_nfe.samples_caption),
    "trajectory": Plot("Sampling trajectories", trajectory.trajectory_data, trajectory.draw_trajectory, trajectory.trajectory_caption),
    "degradation": Plot(
        "Along the degradation path and back", degradation.degradation_data, degradation.draw_degradation, degradation.degradation_caption
    ),
}


def render_figure(name: str, suite_folder: str | Path = ".") -> None:
    """Write `reports/figures/{name}.png`, `.svg`, `.pdf` and the figure's data as `.csv`.

    Raises UserError if there is no such figure or if a file that it needs is missing.
    """
    if name not in FIGURES:
        raise UserError(f"there is no figure {name}; known: {', '.join(FIGURES)}")
    plot, stem = FIGURES[name], Path(suite_folder) / layout.FIGURES / name
    suite = open_suite(suite_folder)
    data = plot.data(suite.overview())
    if data.empty:  # as where one axis is whether a path is recorded, and nothing else records one
        data = plot.data(suite)
    if data.empty:
        raise UserError(f"figure {name} has nothing to show: no method in score_distillation and trajectory_distillation belongs in it")
    save_csv(stem.with_suffix(".csv"), data.drop(columns="pixels", errors="ignore"))
    save_figure(lambda: plot.draw(data), stem)
