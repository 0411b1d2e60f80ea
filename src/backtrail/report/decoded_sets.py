"""What tables and figures of latent models share: the sets of decoded images that were measured, by model, evaluations and guidance."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from backtrail.artifacts import load_json
from backtrail.layout import TEACHER_NAME, metrics, samples
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.text_suite import TextSuite
from backtrail.report.names import literal

KEYS = ["kind", "method", "nfe", "guidance", "trained"]
MARKERS = "ovsD^<>*XPdpH8h"


def set_rows(folder: Path, suite: TextSuite | LatentSuite) -> Iterator[dict[str, Any]]:
    """A row per set of images: KEYS and its values, the teacher's samplers first, each by its evaluations.

    Raises UserError if a file of a method or seed is absent.
    """
    samplers = suite.teacher_samples.samplers
    for owner, seed in [(TEACHER_NAME, None), *((method, seed) for method in suite.methods for seed in suite.seeds)]:
        content, teacher = load_json(folder / metrics(owner, seed)), seed is None
        for sampler in samplers if teacher else content["values"]:
            guidance = samplers[sampler].guidance if teacher else float(sampler.partition("-w")[2] or 1)
            named = {"kind": "teacher" if teacher else "student", "method": sampler if teacher else owner}
            for made, values in _by_nfe(content["values"][sampler]):
                trained = teacher or made // (1 if guidance == 1 else 2) in content["trained_nfe"]
                yield named | {"nfe": made, "guidance": guidance, "trained": trained} | values


def _by_nfe(sets: dict[str, dict[str, float]]) -> list[tuple[int, dict[str, float]]]:
    """A sampler's values with the numbers of evaluations, ascending: as text 10 comes before 4."""
    return sorted(((int(nfe.removeprefix("nfe")), values) for nfe, values in sets.items()), key=lambda item: item[0])


def over_seeds(rows: pd.DataFrame, names: list[str], beside: Mapping[str, Mapping[str, float]] | None = None) -> pd.DataFrame:
    """KEYS, n_seeds, and of each metric the mean and the standard deviation over the seeds (empty for one).

    beside: values of real images or reconstructions, by the word that their columns begin with.
    """
    by = rows.groupby(KEYS, sort=False, dropna=False)
    table = by.size().rename("n_seeds").reset_index()
    for name in names:
        table[f"{name}_mean"], table[f"{name}_std"] = by[name].mean().to_numpy(), by[name].std().to_numpy()
        for word, values in (beside or {}).items():
            table[f"{word}_{name}"] = values[name]
    return table


def shown(mean: float, std: float = float("nan"), digits: int = 3) -> str:
    """A mean with its spread, where there is one, as a table shows it."""
    return f"{mean:.{digits}g}" if pd.isna(std) else f"{mean:.{digits}g} ± {std:.1g}"


def place_of(row: Any, seed: int) -> tuple[str, str]:
    """Where the images of a row of the table lie, of a student those of one seed: the archive, and the key in it."""
    if row.kind == "teacher":
        return samples(TEACHER_NAME), f"{row.method}/nfe{row.nfe}"
    return samples(row.method, seed), f"{'student' if row.guidance == 1 else f'student-w{row.guidance:g}'}/nfe{row.nfe}"


def pixel_digest(image: np.ndarray) -> str:
    """sha256 of an image's pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def draw_lines(axes: Axes, rows: pd.DataFrame) -> None:
    """A metric over evaluations, in the order of the rows: a colour per model, whatever its guidance, and a marker per model and guidance.

    Models that have one number of evaluations, the same, stand beside each other.
    """
    series = [(*key, of) for key, of in rows.groupby(["kind", "method", "guidance"], sort=False)]
    models = list(dict.fromkeys(_model(kind, method) for kind, method, _, _ in series))
    alone = [of["nfe"].iloc[0] if len(of) == 1 else None for *_, of in series]
    for i, (kind, method, guidance, of) in enumerate(series):
        among = [j for j, nfe in enumerate(alone) if nfe is not None and nfe == alone[i]]
        aside = 2 ** (0.1 * (among.index(i) - (len(among) - 1) / 2)) if among else 1
        colour = f"C{models.index(_model(kind, method)) % 10}"
        line = "none" if among else ":" if kind == "teacher" else "-"
        style = {"marker": MARKERS[i % len(MARKERS)], "color": colour, "linestyle": line, "capsize": 2}
        name = literal(f"{kind}, {method}, w = {guidance:g}")
        axes.errorbar(of["nfe"] * aside, of["mean"], of["std"].fillna(0), label=name, **style)
    axes.set_xlabel("Network evaluations, both branches counted")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")


def _model(kind: str, method: str) -> tuple[str, str]:
    """A sampler at a weight of guidance goes by the name of the sampler: `heun-w3` of `heun`."""
    return kind, re.sub(r"-w[\d.]+$", "", method)
