"""`backtrail plan`: what a run of the suite would fetch, and about how long it would compute."""

import functools
import json
import math
from pathlib import Path

import click
import pandas as pd

from backtrail import layout
from backtrail.cli.compute_cost import Work, count, forward_gflop, inception_gflop, network
from backtrail.cli.own_files import lies_in
from backtrail.data.download import host_of
from backtrail.data.registry import File, Source
from backtrail.data.sources import SOURCES, source_of, source_of_teacher
from backtrail.data.understood import understood
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.layout import LOCK_FILE
from backtrail.ledger.gathered import read_gathered
from backtrail.ledger.ledger import Stage, parse_lock
from backtrail.nets.build import load_denoiser
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.metrics import needs_inception
from backtrail.parameters.ring import RingSuite
from backtrail.parameters.suite import Suite, read_suite
from backtrail.parameters.teacher import ImportedTeacher
from backtrail.parameters.text_suite import TextSuite
from backtrail.teachers.imported import read_teacher

# Both of SFD's tables of training hours (arXiv 2409.19681, Tables 2 and 3: CIFAR-10 and ImageNet-64, half precision on an A100) come to
# this rate within 2 %, if its forwards are counted as here.
A100_HALF_TFLOPS = 65.0
LEAST_TFLOPS = 1e-6
SPENT = ("seconds", "gpu_seconds")  # of a record
CACHED = "in DVC's cache: `dvc checkout` brings it back"


def _rate(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """click's own range lets NaN pass, which is neither below nor above anything, and infinity."""
    if value is not None and not LEAST_TFLOPS <= value < math.inf:
        raise UserError(f"--tflops is a number of 10^12 operations a second, {LEAST_TFLOPS:g} or more; found {value:g}")
    return value


@click.command()
@click.option("--tflops", type=float, callback=_rate, default=None, help="10^12 operations a second that your GPU does.")
def command(tflops: float | None) -> None:
    """Say what a run would fetch (files, bytes, what is here already) and about how many GPU-hours each stage would take.

    Nothing is fetched or computed. Hours are estimates: the forwards of each stage are counted from the parameters, their operations
    from the network, and the rate is the one given, else that of stages that have run on a GPU, else that of SFD's published hours (A100,
    half precision). Reading and writing are left out.
    """
    suite = read_suite()
    if isinstance(suite, LatentSuite):
        from backtrail.cli.latent_plan import plan_latent  # here: it builds on this module

        plan_latent(suite, tflops)
        return
    if isinstance(suite, RingSuite | TextSuite):
        raise UserError(f"suite {suite.suite} takes minutes on a CPU: run it with `dvc repro`; `backtrail plan` is for suites of images")
    outside = files(suite)
    click.echo(f"Suite {suite.suite}\n\nTo fetch:\n{as_text(outside)}\n{summary(outside)}\n")
    if Path(suite.data.local).exists() and (images := understood(suite.data)):
        click.echo("Your images:\n" + "\n".join(images.lines()) + "\n")
    denoiser = network(suite) or teacher_here(suite)
    if denoiser is None:
        click.echo("Work: unknown until the teacher's file is here (the registry does not know its network).")
        return
    per_forward, per_image = forward_gflop(denoiser), inception_gflop()
    n_weights = sum(parameter.numel() for parameter in denoiser.parameters())
    table = operations(list(count(suite)), per_forward, per_image)
    rate, origin = rate_of(table, tflops)
    table["GPU hours"] = table["tflop"] / rate / 3600
    click.echo(
        f"Work: the network has {n_weights / 1e6:.1f} M weights and {per_forward:.1f} GFLOP per forward; {rate:.3g} TFLOP/s {origin}"
    )
    shown = table.assign(**{"forwards": table["forwards"].map("{:.2e}".format), "GPU hours": table["GPU hours"].map("{:.2f}".format)})
    shown["measured hours"] = table["seconds"].map(lambda seconds: f"{seconds / 3600:.2f}" if seconds else "")
    click.echo(as_text(shown[["stage", "jobs", "done", "forwards", "GPU hours", "measured hours"]]))
    left = table[table["done"] < table["jobs"]]
    remaining = (left["GPU hours"] * (1 - left["done"] / left["jobs"])).sum()
    click.echo(f"About {table['GPU hours'].sum():.1f} GPU-hours in all (an estimate), {remaining:.1f} of them still to do.")
    if hours := table["seconds"].sum() / 3600:
        click.echo(f"Where they ran (the records, or the ledger that git keeps), these stages took {hours:.1f} hours one after the other.")
    if suite.scaling:
        click.echo("Not counted: the teachers that `scaling` trains.")


def teacher_here(suite: Suite) -> NetDenoiser | None:
    """The imported teacher, as its stage made it or as it lies in teacher.local; None where neither is there."""
    if Path(layout.TEACHER).is_file():
        return load_denoiser(layout.TEACHER)
    p = suite.teacher
    return read_teacher(p.source, p.local, p.discrete_time) if isinstance(p, ImportedTeacher) and lies_in(p) else None


def files(suite: Suite) -> pd.DataFrame:
    """A row per outside file: stage, file, bytes (None: unknown) and state."""
    rows = file_rows("fetch", source_of(suite.data), layout.RAW, suite.data.local)
    if isinstance(suite.teacher, ImportedTeacher):
        p = suite.teacher
        source = source_of_teacher(p.source, p.local if Path(p.local).is_dir() else None)
        rows += file_rows("fetch-teacher", source, layout.FETCHED_TEACHER, p.local)
    if needs_inception(suite.metrics.extractors):
        inception = suite.metrics.inception
        for name in ("inception-2015-12-05", *inception.published.values()):
            rows += file_rows("fetch-inception", SOURCES[name], layout.INCEPTION, inception.local)
    return pd.DataFrame(rows)


def file_rows(stage: str, source: Source, folder: str, local: str) -> list[dict[str, object]]:
    rows, cached = [], in_cache(folder)
    for file in source.files:
        here, supplied = Path(folder) / file.name, _supplied(file, local)
        lies = here if here.is_file() else supplied
        size_bytes = lies.stat().st_size if lies else file.served_bytes or file.size_bytes
        state = "here" if here.is_file() else _state(file, source, supplied, local, cached)
        rows.append({"stage": stage, "file": file.name, "bytes": size_bytes, "state": state})
    return rows


def _supplied(file: File, local: str) -> Path | None:
    """The file itself where the user has it; None where it is to be got, or to be made of images."""
    place = Path(local)
    return next((path for path in (place, place / file.served_name, place / file.name) if path.is_file()), None)


def _state(file: File, source: Source, supplied: Path | None, local: str, cached: bool) -> str:
    is_packed = source.name == "image-folder" and Path(local).is_dir()  # its images become the file
    if is_packed or supplied:
        return f"supplied in {local}"
    if cached:
        return CACHED
    if file.addresses:
        return f"from {host_of(file.addresses[0])}"
    return "from a Debian package" if source.package else "MISSING: to be got by hand, named by `local`"


def in_cache(folder: str) -> bool:
    """Whether this output stands in the lock file and its content in DVC's cache (in the usual place)."""
    if not Path(LOCK_FILE).is_file():
        return False
    stages = _parsed(Path(LOCK_FILE).read_text(encoding="utf-8")).values()
    digests = [out.md5 for stage in stages for out in stage.outs.values() if out.path == folder]
    return any(Path(".dvc/cache/files/md5", digest[:2], digest[2:]).is_file() for digest in digests)


@functools.lru_cache(maxsize=1)
def _parsed(lock: str) -> dict[str, Stage]:
    """The stages of a lock file's text: every source asks for them, and parsing takes long."""
    return parse_lock(lock)


def summary(table: pd.DataFrame) -> str:
    """One line: how many bytes are still to be fetched, and how many files have an unknown size."""
    wanted = table[~table["state"].isin(["here", CACHED]) & ~table["state"].str.startswith("supplied")]
    unknown = int(wanted["bytes"].isna().sum())
    known = int(wanted["bytes"].dropna().sum())
    return f"{len(wanted)} of {len(table)} files to get: {known:,} bytes" + (f", and {unknown} of unknown size" if unknown else "")


def operations(counted: list[Work], per_forward: float, per_image: float) -> pd.DataFrame:
    """A row per kind of job: stage, jobs, done (jobs whose record is here and whole), forwards and tflop of all of them, and the measured
    seconds of the clock and of GPUs; in a clone those of the run whose ledger git keeps (`seconds` alone)."""
    rows, before = [], read_gathered(Path())
    for item in counted:
        records = [Path(layout.record(name)) for name in item.names]
        spent = [found for path in records if path.is_file() and (found := _spent(path.read_bytes()))]
        told = spent or [found for path in records if (found := _spent(before.get(path.as_posix(), b"")))]
        jobs = len(item.names)
        operations = (item.forwards * per_forward + item.features * per_image) / 1000
        row = {"stage": _kind(item.names), "jobs": jobs, "done": len(spent), "forwards": item.forwards * jobs, "tflop": operations * jobs}
        rows.append(row | {"seconds": sum(of["seconds"] for of in told), "gpu_seconds": sum(of["gpu_seconds"] for of in spent)})
    return pd.DataFrame(rows)


def _kind(names: list[str]) -> str:
    """What several jobs are called together: without the seed, or else the stage alone."""
    method, _, seed = names[0].rpartition("-")
    return names[0] if len(names) == 1 else method if seed.isdecimal() else names[0].partition("@")[0]


def _spent(content: bytes) -> dict[str, float] | None:
    """The times in a stage's record; None where there is none, or a damaged one, whose stage is to run again."""
    try:
        record = json.loads(content)
        return {key: float(record[key]) for key in SPENT}
    except (ValueError, RecursionError, LookupError, TypeError, OverflowError):
        return None


def rate_of(table: pd.DataFrame, given: float | None) -> tuple[float, str]:
    """TFLOP/s, and where the number comes from."""
    if given is not None:
        return given, "(given)"
    ran = table[(table["done"] > 0) & (table["gpu_seconds"] > 0) & (table["tflop"] > 0)]
    if len(ran):
        done = (ran["tflop"] * ran["done"] / ran["jobs"]).sum()
        return float(done / ran["gpu_seconds"].sum()), "(measured on the stages that have run on a GPU)"
    return A100_HALF_TFLOPS, "(SFD's published hours: an A100 in half precision)"


def as_text(table: pd.DataFrame) -> str:
    shown = table.copy()
    if "bytes" in shown:
        shown["bytes"] = shown["bytes"].map(lambda value: "unknown" if pd.isna(value) else f"{int(value):,}")
    return shown.to_string(index=False)
