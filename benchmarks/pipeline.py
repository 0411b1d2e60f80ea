"""What the shell around the stages costs: `python benchmarks/pipeline.py [--job] [--whole]`, in a suite that has run.

Lines of the pipeline and its lock; CPU seconds of what changes nothing (`dvc repro`, `dvc status`, a dry run of Snakemake) and of DVC for a
job that computes next to nothing; what the engines and torch cost where there is nothing to run; the stages' own work on record. All are
whole processes with their children. The overhead per job is the CPU time of a whole run, in a clone without results (`--whole`), less that
work, by the jobs.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

RECORDS = Path("results/records")
CHEAP = "fetch-teacher"  # a stage that only makes a folder, where the suite trains its own teacher


def cpu_seconds(*command: str, **environment: str) -> float:
    """User and system time of a command and its children. Raises SystemExit if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines(path: str) -> tuple[int, int]:
    """Lines of a file, and how many of them are no list of source files."""
    text = Path(path).read_text(encoding="utf-8").splitlines()
    return len(text), sum("${code}/" not in line for line in text)


def floors() -> list[tuple[str, str]]:
    """The same of an empty project, and a process that imports torch: what no pipeline can go below."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("Snakefile").write_text("rule all:\n    shell: 'true'\n", encoding="utf-8")
        cpu_seconds(python, "-m", "dvc", "init", "--no-scm")
        commands = {
            "`dvc status`": ("-m", "dvc", "status"),
            "`snakemake -n`": ("-m", "snakemake", "-n"),
            "`import torch`": ("-c", "import torch"),
        }
        return [(f"{words} in an empty project, CPU s", f"{cpu_seconds(python, *rest):.1f}") for words, rest in commands.items()]


def whole_run(root: Path, suite: Path) -> list[tuple[str, str]]:
    """The suite in a clone of the last commit, where no stage has run and no cache is, in this environment."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        place = clone / suite
        shutil.rmtree(place / "results/records", ignore_errors=True)
        (place / "dvc.lock").unlink(missing_ok=True)
        environment = {"PYTHONPATH": str(clone / "src"), "DVC_SITE_CACHE_DIR": str(Path(folder, "dvc"))}
        began = time.perf_counter()
        with chdir(clone):
            python, profile = sys.executable, str(clone / "workflow/profiles/local")
            spent = cpu_seconds(python, "-m", "snakemake", "-d", str(suite), "--profile", profile, **environment)
        seconds = [json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"] for path in place.glob("results/records/*.json")]
        minutes = (time.perf_counter() - began) / 60
    jobs = len(seconds) + 1
    return [
        ("a whole run in a clone, CPU s", f"{spent:,.0f} ({minutes:.1f} minutes)"),
        (f"of it the stages' own work, CPU s of {jobs} jobs", f"{sum(seconds):,.0f}"),
        ("overhead per job, CPU s", f"{(spent - sum(seconds)) / jobs:.1f}"),
    ]


def rows(job: bool, whole: bool, root: Path) -> list[tuple[str, str]]:
    """What is measured, in words, and its value."""
    python, dvc = sys.executable, (sys.executable, "-m", "dvc")
    all_lines, by_hand = lines("dvc.yaml")
    found = [("dvc.yaml, lines (without the list of source files)", f"{all_lines} ({by_hand})")]
    found.append(("dvc.lock, lines", f"{lines('dvc.lock')[0]:,}"))
    found.append(("jobs", str(len(list(RECORDS.glob("*.json"))) + 1)))
    for words, command in (("no-op `dvc repro`", (*dvc, "repro")), ("`dvc status`", (*dvc, "status"))):
        found.append((f"{words}, CPU s", f"{cpu_seconds(*command):.1f}"))
    dry = (python, "-m", "snakemake", "-s", str(root / "workflow/Snakefile"), "--profile", str(root / "workflow/profiles/local"), "-n")
    found.append(("`snakemake --profile local -n`, CPU s", f"{cpu_seconds(*dry):.1f}"))
    if job:
        alone = cpu_seconds(python, str(root / "src/backtrail"), CHEAP, DVC_STAGE=CHEAP)
        for who, command in (("Snakemake's", (python, str(root / "workflow/dvc_stage.py"))), ("by hand", (*dvc, "repro", "--single-item"))):
            spent = cpu_seconds(*command, "--force", CHEAP) - alone
            found.append((f"DVC for one job that runs, {who} ({CHEAP} forced, less the command alone), CPU s", f"{spent:.1f}"))
        found.append(("the command alone, CPU s", f"{alone:.1f}"))
    found += floors()
    seconds = [json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"] for path in RECORDS.glob("*.json")]
    found.append(("the stages' own work on record, CPU s", f"{sum(seconds):.0f}"))
    return found + (whole_run(root, Path.cwd().relative_to(root)) if whole else [])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--job",
        action="store_true",
        help=f"also force a job that computes next to nothing ({CHEAP}); `git checkout dvc.lock && dvc checkout --force` undoes it",
    )
    parser.add_argument("--whole", action="store_true", help="also run the suite in a clone of the last commit, from nothing")
    root, began = Path(__file__).resolve().parents[1], time.perf_counter()
    print("| what | here |\n| --- | --- |")
    asked = parser.parse_args()
    for words, value in rows(asked.job, asked.whole, root):
        print(f"| {words} | {value} |")
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
