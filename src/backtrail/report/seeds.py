"""Means and ranges over seeds, and the mismatch of one seed: what figures draw and claims are judged on."""

import pandas as pd

from backtrail.report.collect import MEASURES, Suite, mismatch

CURVE_METRIC = "fd_classifier"


def over_seeds(rows: pd.DataFrame, by: list[str], value: str, averaged: tuple[str, ...] = ()) -> pd.DataFrame:
    """Mean, minimum and maximum of `value` over seeds, and the number of seeds, per group; groups in the order in which they come.

    `averaged` names columns that may differ between seeds (a recording that stopped earlier, an adaptive switch of nodes): their mean.
    """
    grouped = rows.groupby(by, sort=False)
    also = {name: (name, "mean") for name in averaged}
    return grouped.agg(**also, mean=(value, "mean"), min=(value, "min"), max=(value, "max"), n_seeds=("seed", "nunique")).reset_index()


def seeds_sentence(data: pd.DataFrame) -> str:
    """How many seeds stand behind a table's rows, in words."""
    fewest, most = data["n_seeds"].min(), data["n_seeds"].max()
    if most == 1:
        return "1 seed"
    return f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"


def in_noise_units(rows: pd.DataFrame) -> pd.DataFrame:
    """Mismatch in units of the noise: a score's norm times sigma, a squared denoising error over sigma squared.

    Without these weights the smallest sigma alone would decide the mean over the sigma grid.
    """
    weights = {"raw": rows["sigma"], "excess": rows["sigma"] ** -2.0, "difference": rows["sigma"]}
    return rows.assign(**{f"{m}_{s}": rows[f"{m}_{s}"] * weights[m] for m in MEASURES for s in ("mean", "std")})


def mismatch_per_seed(suite: Suite, methods: list[str]) -> pd.DataFrame:
    """Mean over the sigma grid in noise units: method, seed, update, total_updates, node, measure, value, sample_std."""
    rows = in_noise_units(mismatch(suite, methods))
    keys = ["method", "seed", "update", "total_updates", "node"]
    means = rows.groupby(keys, sort=False)[[f"{m}_{s}" for m in MEASURES for s in ("mean", "std")]].mean().reset_index()
    parts = [
        means[keys].assign(measure=measure, value=means[f"{measure}_mean"], sample_std=means[f"{measure}_std"]) for measure in MEASURES
    ]
    return pd.concat(parts, ignore_index=True)
