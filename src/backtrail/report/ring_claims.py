"""What DisBack claims, judged on the ring of Gaussians by the rule of `claims.py`, and the sentence that the verdicts make."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from backtrail.artifacts import atomic_write
from backtrail.report.claims import Claim, joined, judge_all, rows
from backtrail.report.collect import MEASURES
from backtrail.report.ring import RingResults, draw_ring, end_points, open_ring, ring_data, ring_label
from backtrail.report.style import save_figure
from backtrail.report.tables import Table, claims_for_readers, markdown, plus_minus
from backtrail.tables import save_csv

OURS, OTHER = "disback", "diff-instruct"
PAIR = [OURS, OTHER]
Margins = Callable[[RingResults], pd.DataFrame]


def nearer_at_the_end(ours: str, other: str, count: str) -> Margins:
    """Margins of two methods' end points at equal `count` (update, or total_updates: recording charged)."""

    def margins(results: RingResults) -> pd.DataFrame:
        if not {ours, other} <= set(results.methods):
            return joined([])
        at, ends = end_points(results, [ours, other], count)
        return rows(f"{at:,} updates", ends[ours], ends[other])

    return margins


def lower_mismatch(measure: str, on_nodes: bool) -> Margins:
    """Margins of DisBack's mismatch against Diff-Instruct's at each snapshot of both; `on_nodes`: where a node is DisBack's target."""

    def margins(results: RingResults) -> pd.DataFrame:
        if not set(PAIR) <= set(results.methods):
            return joined([])
        by_method = {method: of.set_index(["update", "seed"]) for method, of in results.snapshots.groupby("method")}
        ours = by_method[OURS][by_method[OURS]["node"] > 0] if on_nodes else by_method[OURS]
        pair = pd.DataFrame({"ours": ours[f"{measure}_mean"], "other": by_method[OTHER][f"{measure}_mean"]}).dropna()
        updates = pair.index.get_level_values("update").unique()
        return joined(rows(f"update {u}", pair.loc[u]["ours"], pair.loc[u]["other"]) for u in updates)

    return margins


def detour(results: RingResults, method: str) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """By seed: how far from the data the student itself is at its farthest in its first updates, and how far at its start."""
    first = results.snapshots[(results.snapshots["method"] == method) & (results.snapshots["update"] <= results.evaluation.detour_updates)]
    farthest = first[first["update"] > 0].groupby("seed")["sliced_w2"].max()
    return farthest, first[first["update"] == 0].set_index("seed")["sliced_w2"]


def no_detour(method: str, made: bool = False) -> Margins:
    """Margins of a student's farthest point against its start and the floor, which two samples of one law are apart; `made`: reversed."""

    def margins(results: RingResults) -> pd.DataFrame:
        if method not in results.methods:
            return joined([])
        farthest, start = detour(results, method)
        pair = (start + results.floor, farthest) if made else (farthest, start + results.floor)
        return rows(f"first {results.evaluation.detour_updates} updates", *pair)

    return margins


def shorter_detour(results: RingResults) -> pd.DataFrame:
    """Margins of DisBack's farthest point against Diff-Instruct's."""
    if not set(PAIR) <= set(results.methods):
        return joined([])
    return rows(f"first {results.evaluation.detour_updates} updates", *(detour(results, method)[0] for method in PAIR))


def mismatch_returns(method: str) -> Margins:
    """Margins of the raw mismatch at the start against the largest that comes after."""

    def margins(results: RingResults) -> pd.DataFrame:
        of = results.snapshots[results.snapshots["method"] == method]
        later = of[of["update"] > 0].groupby("seed")["raw_mean"].max()
        return rows("largest against first", of[of["update"] == 0].set_index("seed")["raw_mean"], later) if len(of) else joined([])

    return margins


END, START = "sliced W2, averaged student", "sliced W2, student itself"
FIG_1, FIG_4, PATH, CONTROL = "DisBack, Fig. 1", "DisBack, Fig. 4", "DisBack, Algorithm 2", "control"


def _claim(key: str, text: str, source: str, quantity: str, margins: Margins) -> Claim:
    return Claim(key, text, source, lambda _: quantity, margins)


def _mismatch_claims(measure: str) -> list[Claim]:
    text, quantity = "DisBack's mismatch is lower than Diff-Instruct's", f"mismatch, {measure}"
    return [
        _claim(f"lower-mismatch-{measure}", f"{text} throughout training", FIG_4, quantity, lower_mismatch(measure, False)),
        _claim(f"lower-mismatch-on-nodes-{measure}", f"{text} while nodes are the target", FIG_4, quantity, lower_mismatch(measure, True)),
    ]


def _end_claim(key: str, text: str, source: str, ours: str, other: str) -> Claim:
    return _claim(key, text, source, END, nearer_at_the_end(ours, other, "update"))


CLAIMS = (
    *(claim for measure in MEASURES for claim in _mismatch_claims(measure)),
    _claim("no-detour", "DisBack's student makes no detour at the start (within the floor)", PATH, START, no_detour(OURS)),
    _claim("detour-without-nodes", "Diff-Instruct's student makes a detour at the start", PATH, START, no_detour(OTHER, made=True)),
    _claim("shorter-detour", "DisBack's student stays nearer to the data than Diff-Instruct's at the start", PATH, START, shorter_detour),
    _end_claim("end", "DisBack ends nearer to the data at equal updates of the student", FIG_1, OURS, OTHER),
    _claim(
        "end-charged",
        "DisBack ends nearer to the data at equal updates, recording included",
        FIG_1,
        f"{END}, recording charged",
        nearer_at_the_end(OURS, OTHER, "total_updates"),
    ),
    _end_claim("nodes-alone", "The nodes alone end nearer than Diff-Instruct", CONTROL, "nodes-only", OTHER),
    _end_claim("warm-start", "The warm start alone ends nearer than Diff-Instruct", CONTROL, "warm-start", OTHER),
    _end_claim("loss-spacing", "Nodes at equal steps of the path's loss end nearer than at equal updates", CONTROL, "disback-loss", OURS),
    _claim(
        "mismatch-returns",
        "After a long recording the mismatch comes back above its start",
        CONTROL,
        "mismatch, raw",
        mismatch_returns("disback-long"),
    ),
)


def judge_ring(results: RingResults) -> pd.DataFrame:
    """The table of claims."""
    return judge_all(results, CLAIMS)


def ring_sentence(results: RingResults, table: pd.DataFrame) -> str:
    """The verdicts in words and the end points in numbers, from the table of claims and the curves."""
    at, ends = end_points(results, results.methods, "update")
    n_seeds = results.curves["seed"].nunique()
    spread = {method: plus_minus(ends[method].mean(), ends[method].std()) for method in results.methods}
    distances = ", ".join(f"{ring_label(method)} {value}" for method, value in spread.items())
    papers = table[table["source"] != CONTROL]
    verdicts = [f"{verdict}: {', '.join(of['claim']).replace('-', ' ')}" for verdict, of in papers.groupby("verdict", sort=False)]
    return (
        f"On {results.data_set}, {n_seeds} seeds, sliced W2 to the data after {at:,} updates (mean ± standard deviation; teacher "
        f"{results.teacher:.3g}, floor {results.floor:.3g}): {distances}. DisBack's claims: {'; '.join(verdicts)}."
    )


def claims_table(results: RingResults, table: pd.DataFrame) -> Table:
    """The table of claims in words, with the sentence and the rule under it."""
    readable = claims_for_readers(results, table)
    return Table(readable.title, readable.headings, readable.rows, [ring_sentence(results, table), *readable.notes])


def render_ring(suite_folder: str | Path = ".") -> None:
    """Write the ring's figure as PNG, SVG and PDF with its data as CSV, and the table of claims as CSV and Markdown."""
    reports = Path(suite_folder) / "reports"
    results = open_ring(suite_folder)
    data, claims = ring_data(results), judge_ring(results)
    save_csv(reports / "figures/ring.csv", data)
    save_figure(lambda: draw_ring(data, ring_sentence(results, claims)), reports / "figures/ring")
    save_csv(reports / "tables/claims.csv", claims)
    text = markdown(claims_table(results, claims))
    atomic_write(reports / "tables/claims.md", lambda file: file.write_text(text, encoding="utf-8"))
