"""The table of text to images: quality and alignment of the teacher and of each student, by evaluations and guidance, over the seeds."""

from pathlib import Path

import pandas as pd

from backtrail import layout
from backtrail.artifacts import atomic_write, load_json
from backtrail.layout import PARAMS_FILE, reference_values
from backtrail.parameters.suite import read_suite
from backtrail.parameters.text_suite import TextSuite
from backtrail.report.decoded_sets import KEYS, over_seeds, set_rows, shown
from backtrail.report.tables import Table, markdown
from backtrail.tables import save_csv

JUDGE, FIRST_STAGE = "garment-colour-classifier", "autoencoder"  # whose reference files hold what real images and reconstructions get
SHOWN = {
    "fd_garment_colour_classifier": "FD",
    "pair_accuracy_seen": "garment and colour, seen pairs",
    "pair_accuracy_held_out": "held-out pairs",
    "caption_score_own_towers_seen": "caption score (own towers), seen",
    "caption_score_own_towers_held_out": "held-out",
}
APART = (
    "Students are trained under captions that they are not measured under (another wording, and pairs that no training image shows); SFD's "
    "released code trains and measures under the same."
)
SAME = "Students are trained under the captions that they are measured under, as in SFD's released code."


def text_results(folder: str | Path = ".") -> pd.DataFrame:
    """A row per model, number of evaluations and weight of guidance: KEYS, n_seeds, and of each metric the mean, the standard deviation
    over the seeds (empty for one), the floor (reconstructions of real images), and what real images get.

    Raises UserError if a file of a method or seed is absent.
    """
    folder, suite = Path(folder), read_suite(Path(folder) / PARAMS_FILE)
    if not isinstance(suite, TextSuite):
        raise ValueError(f"{folder} is no suite of text to images")
    rows = pd.DataFrame(set_rows(folder, suite))
    real = load_json(folder / reference_values(JUDGE))["values"]["real"]
    floor = load_json(folder / reference_values(FIRST_STAGE))["values"]["reconstructions"]
    return over_seeds(rows, [name for name in rows if name not in KEYS], {"floor": floor, "real": real})


def for_readers(results: pd.DataFrame, suite: TextSuite) -> Table:
    """The same in a few columns, with what a reader must know before comparing two rows."""
    rows = [["Real images", "", "", *(shown(results[f"real_{name}"].iloc[0]) for name in SHOWN)]]
    rows.append(["Reconstructions (the floor)", "", "", *(shown(results[f"floor_{name}"].iloc[0]) for name in SHOWN)])
    for row in results.to_dict("records"):
        values = [shown(row[f"{name}_mean"], row[f"{name}_std"]) for name in SHOWN]
        rows.append([f"{row['kind'].capitalize()}, {row['method']}", f"{row['guidance']:g}", str(row["nfe"]), *values])
    e = suite.evaluation
    notes = [
        f"Means over {len(suite.seeds)} seeds, {e.n_samples:,} images each, ± standard deviation over the seeds. FD: Frechet distance in "
        "the features of a classifier of garments and colours that was trained on this data set, no FID. Accuracies are that classifier's; "
        "caption scores are cosines of a small net with the text encoder's vectors, no CLIP score. NFE counts both branches of guidance.",
        APART if e.prompts == "apart" else SAME,
    ]
    return Table("Text to images: quality and alignment", ["model", "w", "NFE", *SHOWN.values()], rows, notes)


def render_text(folder: str | Path = ".") -> None:
    """Write the table as CSV and Markdown."""
    tables, suite = Path(folder) / layout.TABLES, read_suite(Path(folder) / PARAMS_FILE)
    assert isinstance(suite, TextSuite)
    results = text_results(folder)
    save_csv(tables / "text.csv", results)
    text = markdown(for_readers(results, suite))
    atomic_write(tables / "text.md", lambda file: file.write_text(text, encoding="utf-8"))
