"""`suites/cifar10-jpeg` with its numbers cut to the minutes that are left: the suite's own stages, run by DVC in a copy of its folder.

The copy keeps what stages have made and the resume states of those that were stopped, so a second lease that is given the folder goes on.
Sizes are chosen once, when the folder is made, from the speed that `fast` has measured on this device, if it has.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from gpu_results import Results, Settings, caught, markdown_rows, spoken

from backtrail.artifacts import atomic_write, load_json
from backtrail.cli.compute_cost import forward_gflop, network
from backtrail.cli.plan import A100_HALF_TFLOPS
from backtrail.laid_down import lay_down
from backtrail.parameters.suite import read_suite

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "suites/cifar10-jpeg/params.yaml"
ARCHIVE = "cifar10-images.tar.xz"  # as the suite's `local` has it
SHARES = {"teacher": 0.35, "diff-instruct": 0.1, "disback": 0.1, "sfd-v": 0.1}  # of the minutes; the rest is sampling and measuring
FORWARDS = {"teacher": 3, "diff-instruct": 8, "disback": 8, "sfd-v": 28}  # of an update (a round), on average
OF_LARGE_NET = 0.3  # a small net reaches this share of the rate of the CIFAR-10 network [ours, a guess that only sizes depend on]
STOP_S = 30.0  # what a stage may take to save its state
COLUMNS = {"command": "command", "seconds": "s", "resumed_from": "resumed from step", "value": "value"}


def cut(values: dict[str, Any], sizes: dict[str, int], tiny: bool) -> dict[str, Any]:
    """The suite's parameters with one seed, three methods and the numbers of updates in `sizes`."""
    p = {**values, "seeds": [0], "start": {"teacher": ["diff-instruct", "disback"]}}
    p.pop("second_stage")
    p["teacher"] |= {"steps": sizes["teacher"], "batch": 4 if tiny else 128}
    p["teacher"]["net"] |= {"channels": [8, 16] if tiny else [64, 128, 128], "blocks": 1}
    p["teacher"]["optimiser"] |= {"warmup": max(1, sizes["teacher"] // 20)}
    p["teacher"]["average"] = {"half_life": 20 * 128, "ramp": 0.05}
    p["classifier"] |= {"n_steps": 10, "batch_size": 8, "width": 8} if tiny else {"n_steps": 1000}
    p["score_distillation"] = {name: p["score_distillation"][name] for name in ("diff-instruct", "disback")}
    for name, method in p["score_distillation"].items():
        n = sizes[name]
        method |= {"updates": n, "evaluate_every": max(1, n // 4), "snapshots": [0]} | ({"batch": 2} if tiny else {})
        if method["recording"]:
            method["recording"] |= {"steps": 3, "nodes": 2, "candidates": 1, "evaluation_batch": 4} if tiny else {"steps": 60, "nodes": 2}
            method["node_updates"] = max(1, n // 8)
    p["trajectory_distillation"] = {"sfd-v": p["trajectory_distillation"]["sfd-v"]}
    n = sizes["sfd-v"]
    p["trajectory_distillation"]["sfd-v"] |= {"rounds": n, "pool": n, "evaluate_every": max(1, n // 2)} | ({"batch": 2} if tiny else {})
    p["students"] = {"diff-instruct": {}, "disback": {}, "sfd-v": {"num_steps": [4, 5]}}
    p["teacher_samples"]["samplers"] = {
        "heun": {"solver": "heun", "num_steps": [18], "schedule": {"t_min": 0.002}},
        "dpmpp-3m": {"solver": "dpmpp-3m", "num_steps": [4, 6], "schedule": {"kind": "logsnr", "t_min": 0.002}},
    }
    few = {"n_samples": 4, "n_curve": 8, "n_reference": 16, "n_pairwise": 4, "n_floor": 4, "k_precision": 2, "k_density": 2}
    p["metrics"] |= few if tiny else {"n_samples": 2000, "n_curve": 1000, "n_reference": 10000, "n_pairwise": 1000}
    p["mismatch"] = {"n_samples": 2, "fit_steps": 1, "sigmas": [0.2, 2.5]} if tiny else {"n_samples": 128, "fit_steps": 20}
    p["report"] |= {"sample_columns": 2 if tiny else 8, "sample_solvers": ["heun/nfe34", "dpmpp-3m/nfe5"]}
    if tiny:
        p["runtime"] = {"threads": 1, "device": "cpu"}
    return p


def sizes_for(minutes: float, tflops: float, gflop: float, batch: int = 128) -> dict[str, int]:
    """Updates of each training that take its share of `minutes` at `tflops`; gflop: of a forward on one image."""
    steps = {name: share * 60 * minutes * tflops * 1e3 / (FORWARDS[name] * gflop * batch) for name, share in SHARES.items()}
    return {name: max(20, round(n)) for name, n in steps.items()}


def measured_tflops(out: Path) -> float:
    """What a small net is expected to do: a share of what `fast` has measured in float32, or of the rate that `plan` takes."""
    path = out / "fast.json"
    row = load_json(path)["rows"].get("teacher, float32", {}) if path.exists() else {}
    return OF_LARGE_NET * row.get("tflops", A100_HALF_TFLOPS / 4)


def prepare(work: Path, images: Path, out: Path, tiny: bool, minutes: float) -> None:
    """Lay the suite's copy down in `work`, once. Raises FileNotFoundError if the archive of images is not there."""
    archive = work / "data/local" / ARCHIVE
    if not archive.exists():
        if not images.is_file():
            raise FileNotFoundError(f"{images} is not there: name the archive of images by --images")
        archive.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(archive, lambda path: shutil.copyfile(images, path))
    params = work / "params.yaml"
    if not params.exists():
        values, sizes = yaml.safe_load(SUITE.read_text(encoding="utf-8")), dict.fromkeys(SHARES, 4)
        if not tiny:
            draft = work / "draft.yaml"
            draft.write_text(yaml.safe_dump(cut(yaml.safe_load(SUITE.read_text(encoding="utf-8")), sizes, tiny)), encoding="utf-8")
            sizes = sizes_for(minutes, measured_tflops(out), forward_gflop(network(read_suite(draft))))
            draft.unlink()
        atomic_write(params, lambda path: path.write_text(yaml.safe_dump(cut(values, sizes, tiny), sort_keys=False), encoding="utf-8"))
    read_suite(params)
    lay_down(work)
    if not (work / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(work)], check=True)


def repro(work: Path, log: Path, until: float, say: Callable[[str], None]) -> int | None:
    """`dvc repro` until it ends or the time is up; then the stage that runs is told to save. Its exit code, None if it was stopped."""
    said = log.read_text(encoding="utf-8").count("\nRunning stage") if log.exists() else 0  # of the calls before
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # stages ask for `python`
    with open(log, "a", encoding="utf-8") as file:
        file.write("\n")
        file.flush()
        command = [sys.executable, "-m", "dvc", "repro"]
        process = subprocess.Popen(command, cwd=work, stdout=file, stderr=file, start_new_session=True, env={**os.environ, "PATH": path})
        try:
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.5)
                lines = [
                    line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("Running stage")
                ]
                for line in lines[said:]:
                    say(f"real: {line}")
                said = len(lines)
        finally:
            stopped = process.poll() is None
            if stopped:
                os.killpg(process.pid, signal.SIGINT)  # DVC lets its stage see to it, and ends after it
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    return None if stopped else process.returncode


def run(
    work: Path, images: Path, out: Path, about: dict[str, Any], settings: Settings, minutes: float, say: Callable[[str], None]
) -> tuple[bool, bool]:
    """(whether every stage has run, whether none failed); the records' seconds and the metrics go to real.json and real.md."""
    out.mkdir(parents=True, exist_ok=True)
    until, results, codes = time.monotonic() + 60 * minutes, Results(out / "real.json", about), []

    def whole() -> dict[str, Any]:
        prepare(work, images, out, settings.tiny, minutes)
        codes.append(repro(work, out / "real.log", until, say))
        return {"exit_code": codes[0]} | ({"failed": f"dvc ended with {codes[0]}: see real.log"} if codes[0] else {})

    results.add("dvc repro", caught(whole))
    for path in sorted((work / "results/records").glob("*.json")):
        record = load_json(path)
        row = {"command": record["command"], "seconds": float(record["seconds"])}
        if "resumed_from_step" in record.get("notes", {}):
            row["resumed_from"] = record["notes"]["resumed_from_step"]
        results.add(path.stem, row)
    for path in sorted((work / "results/metrics").glob("*.json")):
        for name, value in flat(load_json(path).get("values", {})).items():
            results.add(f"{path.stem} {name}", {"value": value})
    say(f"real: {spoken(results.rows['dvc repro'])}")
    text = f"`real`: {about['name']}, driver {about['driver']}, torch {about['torch']}. "
    text += "Distances are in the features that they name; they are no FID.\n\n"
    text += markdown_rows(results.rows, COLUMNS) + "\n"
    atomic_write(out / "real.md", lambda file: file.write_text(text, encoding="utf-8"))
    failed = "failed" in results.rows["dvc repro"]
    return failed or codes[0] == 0, not failed


def flat(values: dict[str, Any], before: str = "") -> dict[str, float]:
    """Nested values by their keys, joined by spaces."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{before} {key}".strip()
        found |= flat(value, name) if isinstance(value, dict) else {name: float(value)}
    return found
