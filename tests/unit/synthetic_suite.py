"""A small suite of made-up results in the files' real layout, for the tests of the report; numbers are closed forms with a ripple."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from unit.refusals import as_yaml

METRIC = "fd_efficientnet_lite0"
SCORE = ("diff-instruct", "disback")
# Mean FD at each NFE: first the trained ones, then the untrained.
STUDENTS: dict[str, tuple[dict[int, float], dict[int, float]]] = {
    "diff-instruct": ({1: 101.0}, {}),
    "disback": ({1: 115.0}, {}),
    "trajectory": ({2: 190.0}, {}),
    "sfd": ({2: 148.0}, {3: 170.0}),
    "sfd-v": ({2: 139.0, 3: 77.0, 4: 62.0, 5: 52.0}, {6: 58.0, 8: 71.0}),
}
SOLVERS = {
    "dpmpp-3m": {2: 341.0, 3: 258.0, 4: 101.0, 5: 55.0, 6: 48.0, 8: 44.0},
    "euler": {2: 420.0, 3: 350.0, 4: 280.0, 5: 230.0, 6: 190.0, 8: 120.0},
    "heun": {34: 43.0},
    "ipndm": {2: 380.0, 3: 240.0, 4: 120.0, 5: 75.0, 6: 60.0, 8: 50.0},
}
FLOORS = {
    "efficientnet-lite0": {
        METRIC: 40.0,
        "kid_efficientnet_lite0": 0.0002,
        "precision_efficientnet_lite0": 0.81,
        "recall_efficientnet_lite0": 0.79,
    },
    "classifier": {"fd_classifier": 0.4},
}
SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


SEEDS = [0, 1, 2]


def parameters() -> dict[str, Any]:
    """What the report reads of `params.yaml`, for the files of `write_suite`."""
    report = {
        "title": "backtrail on Fashion-MNIST",
        "metric": METRIC,
        "sample_columns": 10,
        "sample_solvers": ["heun/nfe34", "dpmpp-3m/nfe2"],
    }
    start = {"teacher": ["diff-instruct", "disback"]}
    students: dict[str, Any] = {name: {} for name in ("diff-instruct", "disback", "trajectory", "sfd", "sfd-v")}
    return {"report": report, "data": {"name": "fashion-mnist"}, "seeds": SEEDS, "start": start, "students": students}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def protocol() -> list[dict[str, Any]]:
    common = {"dtype": "float64", "n_images": 2000, "n_reference": 10000, "seeds": [0, 2000]}
    entries = []
    for extractor, floors in FLOORS.items():
        digest = {"extractor": extractor, "extractor_sha256": "a1" * 32, "reference_sha256": "b2" * 32, "resize": "bilinear, 64x64"}
        entries += [{"metric": metric, **digest, **common} for metric in floors]
    return entries


def values(fd: float) -> dict[str, float]:
    """All metrics of one sampler, tied to its FD."""
    rank = 1 / (1 + fd / 200)
    return {
        METRIC: fd,
        "fd_classifier": fd / 10,
        "kid_efficientnet_lite0": fd / 2000,
        "precision_efficientnet_lite0": 0.8 * rank,
        "recall_efficientnet_lite0": 0.75 * rank,
    }


def ripple(method: str, seed: int, x: float) -> float:
    """A deterministic relative deviation of a few per cent."""
    return 0.03 * math.sin(1 + 2.1 * seed + 0.37 * x + len(method))


def write_metrics(folder: Path, seeds: list[int]) -> None:
    teacher = {solver: {f"nfe{nfe}": values(fd) for nfe, fd in by_nfe.items()} for solver, by_nfe in SOLVERS.items()}
    content = {"method": "teacher", "seed": 0, "values": teacher, "trained_nfe": [], "protocol": protocol()}
    write_json(folder / "results/metrics/teacher.json", content)
    for method, (trained, untrained) in STUDENTS.items():
        for seed in seeds:
            measured = {f"nfe{nfe}": values(fd * (1 + ripple(method, seed, nfe))) for nfe, fd in {**trained, **untrained}.items()}
            content = {
                "method": method,
                "seed": seed,
                "values": {"student": measured},
                "trained_nfe": list(trained),
                "protocol": protocol(),
            }
            write_json(folder / f"results/metrics/{method}/seed{seed}.json", content)


def node_at(update: int) -> int:
    """DisBack's target: nodes 2 and 1 for four updates each, then the teacher."""
    return max(0, 2 - update // 4)


def write_curves(folder: Path, seeds: list[int]) -> None:
    end = {"diff-instruct": 10.1, "disback": 11.5, "trajectory": 19.0, "sfd": 14.8, "sfd-v": 7.0}
    for method in STUDENTS:
        recording = 24 if method == "disback" else 0
        per_update = 8.0 if method in SCORE else 18.0
        updates = range(0, 151, 5) if method in SCORE else range(0, 271 if method == "sfd-v" else 81, 10)
        for seed in seeds:
            rows = []
            for update in updates:
                fd = (end[method] + 70 * math.exp(-update / 18)) * (1 + 2 * ripple(method, seed, update))
                cost = 4.0 * recording + per_update * update
                node = node_at(update) if method == "disback" else 0
                row = {
                    "update": update,
                    "total_updates": update + recording,
                    "cost": cost,
                    "node": node,
                    "nfe": 1 if method in SCORE else 2,
                }
                rows.append({**row, "fd_classifier": fd, "loss_student": 1 / (1 + update), "loss_fake": 0.3})
            write_csv(folder / f"results/curves/{method}/seed{seed}.csv", rows)


def write_mismatch(folder: Path, seeds: list[int]) -> None:
    for method in SCORE:
        recording = 24 if method == "disback" else 0
        for seed in seeds:
            rows = []
            for update in range(0, 151, 10):
                node = node_at(update) if method == "disback" else 0
                excess = (0.5 if method == "disback" else 0.9) * math.exp(-update / 40) * (1 + 2 * ripple(method, seed, update)) + 0.02
                for sigma in SIGMAS:
                    raw, difference = 14 * (1 + excess) / (1 + sigma), 8 * math.sqrt(excess)
                    row = {"update": update, "total_updates": update + recording, "node": node, "sigma": sigma}
                    row |= {"raw_mean": raw / sigma, "raw_std": 0.2 * raw / sigma, "excess_mean": excess * sigma**2, "excess_std": sigma**2}
                    rows.append(row | {"difference_mean": difference / sigma, "difference_std": 1 / sigma})
            write_csv(folder / f"results/mismatch/{method}/seed{seed}.csv", rows)


def write_paths(folder: Path, seeds: list[int]) -> None:
    for seed in seeds:
        rows = []
        for node, step in enumerate((0, 6, 12, 24)):
            wave = 1 + ripple("path", seed, node)
            rows.append(
                {
                    "node": node,
                    "step": step,
                    "loss_student": (0.2 + 0.9 * math.exp(-step / 8)) * wave,
                    "loss_data": (0.24 + 0.012 * step) * wave,
                    "digest": f"{seed}{node}" * 8,
                }
            )
        write_csv(folder / f"results/paths/disback/seed{seed}/path.csv", rows)
        write_csv(folder / f"results/paths/diff-instruct/seed{seed}/path.csv", rows[:1])


def pictures(n: int, blur: float) -> np.ndarray:
    """Blobs, uint8 [n, 1, 16, 16], the same shapes for the same index, noisier with `blur`."""
    y, x = np.mgrid[0:16, 0:16] / 15 - 0.5
    made = []
    for i in range(n):
        rng = np.random.default_rng(i)
        cx, cy, wide, high = rng.uniform([-0.1, -0.1, 0.15, 0.2], [0.1, 0.1, 0.35, 0.4])
        shape = 1 / (1 + np.exp(40 * (((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2 - 1) * (1 - blur)))
        made.append(np.clip(255 * shape + 120 * blur * rng.standard_normal((16, 16)), 0, 255))
    return np.stack(made)[:, None].astype(np.uint8)


def write_archive(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path, metadata={"backtrail": json.dumps({"metadata": metadata}, sort_keys=True)})


def write_samples(folder: Path, seeds: list[int], n: int = 12) -> None:
    write_archive(folder / "data/dataset.safetensors", {"test_images": pictures(n, 0.0)}, {"name": "fashion-mnist"})
    teacher = {f"{solver}/nfe{nfe}": pictures(n, min(0.5, fd / 900)) for solver, by_nfe in SOLVERS.items() for nfe, fd in by_nfe.items()}
    write_archive(folder / "results/samples/teacher.safetensors", teacher, {"method": "teacher", "seed": 0, "n_images": n, "first_seed": 0})
    for method, (trained, untrained) in STUDENTS.items():
        for seed in seeds:
            made = {f"student/nfe{nfe}": pictures(n, fd / 900) for nfe, fd in {**trained, **untrained}.items()}
            metadata = {"method": method, "seed": seed, "n_images": n, "first_seed": 0, "trained_nfe": list(trained)}
            write_archive(folder / f"results/samples/{method}/seed{seed}.safetensors", made, metadata)


def grid(n: int) -> np.ndarray:
    """EDM's noise levels from 80 to 0.006, n of them, descending."""
    return (80 ** (1 / 7) + np.linspace(0, 1, n) * (0.006 ** (1 / 7) - 80 ** (1 / 7))) ** 7


def walk(sigmas: np.ndarray, bend: float, n: int = 4) -> np.ndarray:
    """States [len(sigmas), n, 1, 16, 16] from noise of seed i to the picture of seed i, whose detail comes with falling sigma."""
    image = pictures(n, 0.0) / 127.5 - 1
    noise = np.stack([np.random.default_rng(100 + i).standard_normal((1, 16, 16)) for i in range(n)])
    return np.stack([s * noise + image / (1 + (bend * s) ** 2) - 0.4 * bend * s / (1 + s) ** 2 for s in sigmas]).astype(np.float32)


def write_states(folder: Path, seeds: list[int]) -> None:
    times = grid(18)
    metadata = {"method": "teacher", "first_seed": 0, "n_images": 4, "times": {"heun/nfe34": times.tolist()}}
    write_archive(folder / "results/states/teacher.safetensors", {"heun/nfe34": walk(times, 1.0)}, metadata)
    for method, (trained, untrained) in STUDENTS.items():
        ways = {nfe: np.array([2.5, 0.0]) if method in SCORE else grid(nfe + 2) for nfe in {**trained, **untrained}}
        states = {f"student/nfe{nfe}": walk(sigmas, 0.5 + 0.1 * len(method)) for nfe, sigmas in ways.items()}
        metadata = {"method": method, "first_seed": 0, "n_images": 4, "trained_nfe": list(trained)}
        metadata["times"] = {f"student/nfe{nfe}": sigmas.tolist() for nfe, sigmas in ways.items()}
        for seed in seeds:
            write_archive(folder / f"results/states/{method}/seed{seed}.safetensors", states, metadata)


def write_path_samples(folder: Path, seeds: list[int], n: int = 12) -> None:
    for method in SCORE:
        steps = (0, 6, 12, 24) if method == "disback" else (0,)
        nodes = [{"key": f"node-{i:03d}", "node": i, "step": step, "loss_student": 1.1 / (1 + step)} for i, step in enumerate(steps)]
        snapshots = [
            {"key": f"student-{u:09d}", "node": node_at(u) if len(steps) > 1 else 0, "update": u} for u in (0, 4, 8, 12, 25, 50, 100)
        ]
        blur = {row["key"]: 0.02 + 0.02 * row["step"] for row in nodes} | {row["key"]: 0.5 / (1 + row["update"] / 8) for row in snapshots}
        metadata = {"method": method, "seed": seeds[0], "n_images": n, "first_seed": 0, "sampler": "heun/nfe34", "rows": nodes + snapshots}
        archive = {key: pictures(n, of) for key, of in blur.items()}
        write_archive(folder / f"results/path-samples/{method}.safetensors", archive, metadata)


def write_suite(folder: Path) -> Path:
    """Write every file that the report reads below `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_parameters(folder, parameters())
    for extractor, floors in FLOORS.items():
        fd = next(metric for metric in floors if metric.startswith("fd_"))
        curve = {fd: 2 * floors[fd], "n_images": 500}
        write_json(folder / f"results/reference/{extractor}.json", {"floor": floors, "floor_curve": curve})
    for write in (write_metrics, write_curves, write_mismatch, write_paths, write_samples, write_states, write_path_samples):
        write(folder, SEEDS)
    return folder


def write_parameters(folder: Path, values: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
