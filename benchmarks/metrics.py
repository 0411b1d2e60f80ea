"""Metrics and samplers against others' on the same numbers: `OMP_NUM_THREADS=1 python benchmarks/metrics.py`.

CPU time on one thread, in turns in one process; a gain is the median over the turns of the other's time over ours in the same turn, with
the smallest and largest beside it. torch-fidelity's and clean-fid's own functions are called; the samplers of EDM and of diffusers are
typed again here from their formulas, and all get a net that costs nothing, so that what is compared is what stands around the net.
Inception is measured by `benchmarks/features.py`.
"""

import argparse
import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import cleanfid.fid
import numpy as np
import torch
from bench import markdown
from timing import Clock, Time
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from backtrail.ledger.record import processor
from backtrail.metrics.frechet import factor, frechet_distance, moments
from backtrail.metrics.pairs import Pairs, Side
from backtrail.running.memory import keep_freed_memory
from backtrail.sampling.schedules import polynomial
from backtrail.sampling.solvers import SOLVERS

Call = Callable[[int], object]
Row = dict[str, str | float]
KID = {"kid_subsets": 1, "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
AIMS = {"KID": 1.5, "precision, recall": 1.5, "all five": 1.5, "Frechet": 3.0, "Heun": 1.15, "DPM-Solver++(3M)": 1.15}


def features(n: int, d: int, seed: int) -> Tensor:
    """Not negative and correlated, as pooled features are: float32 [n, d]."""
    g = torch.Generator().manual_seed(seed)
    return (0.4 * torch.randn(n, d, generator=g) + 0.2 * torch.randn(n, 1, generator=g)).abs()


def over_pairs(n: int, d: int) -> dict[str, dict[str, Call]]:
    """KID over all pairs, precision and recall, and all five metrics of n against n; `again` has met the reference before."""
    x, y = features(n, d, 0), features(n, d, 1)
    known = Side(y)

    def theirs_kid(turn: int) -> object:
        return kid_features_to_metric(x, y, **KID, kid_subset_size=n, rng_seed=0, verbose=False)

    def theirs_precision(turn: int) -> object:
        return prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False)

    def both(pairs: Pairs) -> object:
        return pairs.precision(3), pairs.recall(3)

    def five(pairs: Pairs) -> object:
        return pairs.kernel_distance(), both(pairs), pairs.density(5), pairs.coverage(5)

    found: dict[str, dict[str, Call]] = {}
    for name, ours, other in (
        ("KID", Pairs.kernel_distance, theirs_kid),
        ("precision, recall", both, theirs_precision),
        ("all five", five, lambda turn: (theirs_kid(turn), theirs_precision(turn))),
    ):
        found[name] = {
            "ours": lambda turn, ours=ours: ours(Pairs(Side(x), Side(y))),
            "again": lambda turn, ours=ours: ours(Pairs(Side(x), known)),
            "torch-fidelity": other,
        }
    return found


def frechet(n: int, d: int) -> dict[str, Call]:
    """From n features to the distance; the reference's statistics are at hand on both sides."""
    x, (mean, covariance) = features(n, d, 2), moments(features(n + d, d, 3))
    root, reference = factor(covariance), {"mu": mean.numpy(), "sigma": covariance.numpy()}

    def statistics() -> dict[str, np.ndarray]:
        return {"mu": x.numpy().mean(0, dtype=np.float64), "sigma": np.cov(x.numpy(), rowvar=False)}

    return {
        "ours": lambda turn: frechet_distance(x, mean, root),
        "torch-fidelity": lambda turn: fid_statistics_to_metric(statistics(), reference, verbose=False),
        "clean-fid": lambda turn: cleanfid.fid.frechet_distance(*statistics().values(), *reference.values()),
    }


def denoise(x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
    """A net that costs next to nothing."""
    return x


def edm_heun(x: Tensor, times: Tensor) -> Tensor:
    """EDM's Algorithm 2 without churn, its state in float64 (arXiv 2206.00364), corrected in every step."""
    x = x.double()
    for t, t_next in pairwise(times):
        slope = (x - denoise(x.float(), t).double()) / t
        ahead = x + (t_next - t) * slope
        x = x + (t_next - t) * (0.5 * slope + 0.5 * (ahead - denoise(ahead.float(), t_next).double()) / t_next)
    return x


def diffusers_heun(x: Tensor, times: Tensor) -> Tensor:
    """The step of diffusers' Heun in float32: derivative, half steps, the mean of two derivatives."""
    times = times.float()
    for t, t_next in pairwise(times):
        first = (x - denoise(x, t)) / t
        ahead = x + first * (t_next - t)
        x = x + (first + (ahead - denoise(ahead, t_next)) / t_next) / 2 * (t_next - t)
    return x


def diffusers_dpm(x: Tensor, times: Tensor) -> Tensor:
    """The third order of diffusers' multistep DPM-Solver++ in float32, sigma = t; the first two and the last two steps are lower."""
    times, model = times.float(), []
    u, n = -times.log(), len(times) - 1
    for i, (t, t_next) in enumerate(pairwise(times)):
        model, h = [denoise(x, t), *model[:2]], u[i + 1] - u[i]
        phi = torch.expm1(-h)
        base, order = t_next / t * x - phi * model[0], min(3, i + 1, n - i)
        if order == 1:
            x = base
            continue
        r0 = (u[i] - u[i - 1]) / h
        first = (model[0] - model[1]) / r0
        if order == 2:
            x = base - 0.5 * phi * first
            continue
        r1 = (u[i - 1] - u[i - 2]) / h
        earlier = (model[1] - model[2]) / r1
        d1, d2 = first + r0 / (r0 + r1) * (first - earlier), (first - earlier) / (r0 + r1)
        x = base + (phi / h + 1) * d1 - ((phi + h) / h**2 - 0.5) * d2
    return x


def samplers(batch: int) -> dict[str, dict[str, Call]]:
    """Heun's 18 steps and 5 of DPM-Solver++(3M), on images 3x32x32."""
    noise = 80 * torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    heun, dpm = polynomial(19, 0.002, 80.0), polynomial(6, 0.002, 80.0)

    def ours(solver: str, times: Tensor) -> Call:
        return lambda turn: [None for _ in SOLVERS[solver](denoise, noise, times)]

    return {
        "Heun": {
            "ours": ours("heun", heun),
            "EDM": lambda turn: edm_heun(noise, heun),
            "diffusers": lambda turn: diffusers_heun(noise, heun),
        },
        "DPM-Solver++(3M)": {"ours": ours("dpmpp-3m", dpm), "diffusers": lambda turn: diffusers_dpm(noise, dpm)},
    }


def rows_of(name: str, spent: dict[str, list[Time]]) -> list[Row]:
    """A row per other package (and per way of ours): milliseconds of both and the gain with its spread."""
    found = []
    for mine in (way for way in ("ours", "again") if way in spent):
        for other in (way for way in spent if way not in ("ours", "again")):
            gains = [b.cpu_s / max(a.cpu_s, 1e-9) for a, b in zip(spent[mine], spent[other], strict=True)]
            ours, theirs = (1e3 * median(t.cpu_s for t in spent[way]) for way in (mine, other))
            label = name if mine == "ours" else f"{name}, reference met before"
            row: Row = {
                "work": label,
                "other": other,
                "ours_ms": ours,
                "other_ms": theirs,
                "wanted": 10.0 if other == "clean-fid" else AIMS[name],
            }
            found.append({**row, "gain": median(gains), "lowest": min(gains), "highest": max(gains)})
    return found


def main(words: list[str] | None = None) -> None:
    """Measure, print the table, write metrics.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="on either side of the metrics over pairs")
    parser.add_argument("--frechet-images", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64, help="images that a sampler draws at once")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--work", nargs="+", choices=AIMS, default=list(AIMS), help="what to measure; by default all")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark"), help="folder for metrics.csv")
    a = parser.parse_args(words)
    torch.set_num_threads(1)
    keep_freed_memory()
    clock, rows = Clock(torch.device("cpu")), list[Row]()
    work = over_pairs(a.images, a.dimension) | samplers(a.batch)
    if "Frechet" in a.work:  # whose reference takes its time
        work["Frechet"] = frechet(a.frechet_images, a.dimension)
    for name in a.work:
        calls = work[name]
        few = name == "Frechet"
        clock.interleaved(calls, 0, at_least=0 if few else 2)  # the first calls fill what is kept, and memory
        rows += rows_of(name, clock.interleaved(calls, 0, at_least=min(2, a.turns) if few else a.turns))
    print(f"{processor()}, torch {torch.__version__}, 1 thread, CPU time\n")
    print(table(rows))
    a.out.mkdir(parents=True, exist_ok=True)
    with open(a.out / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ["work", "other", "ours, ms", "other, ms", "other / ours", "lowest to highest", "wanted"]
    lines = []
    for row in rows:
        times = [f"{row['ours_ms']:.1f}", f"{row['other_ms']:.1f}"]
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
        lines.append([str(row["work"]), str(row["other"]), *times, f"{row['gain']:.2f}", spread, f"{row['wanted']:g}"])
    return markdown(head, lines)


if __name__ == "__main__":
    main()
