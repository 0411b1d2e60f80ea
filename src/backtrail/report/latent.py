"""The table of a published latent teacher: each metric by the whole name of its protocol, by model, evaluations and guidance."""

from pathlib import Path
from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.artifacts import atomic_write, load_json
from backtrail.layout import PARAMS_FILE, reference_values
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.suite import read_suite
from backtrail.report.decoded_sets import over_seeds, set_rows, shown
from backtrail.report.tables import Table, markdown
from backtrail.tables import save_csv

APART = (
    "Students are trained under captions that they are not measured under; SFD's released code trains and measures under the same 30,000."
)
SAME = "Students are trained under the captions that they are measured under, as in SFD's released code: their distances profit from it."


def open_latent(folder: Path) -> LatentSuite:
    """The suite's parameters. Raises ValueError for a suite of another kind."""
    suite = read_suite(folder / PARAMS_FILE)
    if not isinstance(suite, LatentSuite):
        raise ValueError(f"{folder} is no suite of a published latent teacher")
    return suite


def latent_results(folder: str | Path = ".") -> pd.DataFrame:
    """A row per model, number of evaluations and weight of guidance: KEYS, n_seeds, and of each metric mean and standard deviation over the
    seeds (empty for one). Raises UserError if a file of a method or seed is absent.
    """
    folder = Path(folder)
    suite = open_latent(folder)
    return over_seeds(pd.DataFrame(set_rows(folder, suite)), suite.evaluation.names)


def for_readers(results: pd.DataFrame, suite: LatentSuite, floor: dict[str, Any]) -> Table:
    """The same with what a reader must know before comparing two numbers; `floor` is the file of the first stage's reconstructions."""
    names, rows = suite.evaluation.names, []
    for row in results.to_dict("records"):
        values = [shown(row[f"{name}_mean"], row[f"{name}_std"], digits=4) for name in names]
        rows.append([f"{row['kind'].capitalize()}, {row['method']}", f"{row['guidance']:g}", str(row["nfe"]), *values])
    of_floor = ", ".join(f"{name} {value:.4g}" for name, value in floor["values"]["reconstructions"].items())
    notes = [
        f"Means over the seeds ({len(suite.seeds)}), ± standard deviation where there are several. A column's name says its protocol: "
        "number of images, crop, resizing; of a CLIP score its model, training, what stands before the caption, and factor. Columns cannot "
        "be compared.",
        f"Floor, reconstructions of {suite.data.n_floor:,} real images by the first stage: {of_floor}.",
        "NFE counts both branches of guidance.",
    ]
    if suite.prompts is not None:
        notes.append(APART if suite.prompts.kept == "apart" else SAME)
    return Table(f"{suite.latent.source}: quality", ["model", "w", "NFE", *names], rows, notes)


def render_latent(folder: str | Path = ".") -> None:
    """Write the table as CSV and Markdown."""
    folder = Path(folder)
    tables, results = folder / layout.TABLES, latent_results(folder)
    save_csv(tables / "latent.csv", results)
    text = markdown(for_readers(results, open_latent(folder), load_json(folder / reference_values("first-stage"))))
    atomic_write(tables / "latent.md", lambda file: file.write_text(text, encoding="utf-8"))
