"""`backtrail new`: a suite for images, and a teacher, of your own."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import jinja2

from backtrail.artifacts import atomic_write, load_yaml
from backtrail.cli.own_files import check_classes, check_own_files, numbers_said
from backtrail.data.sources import OWN_TEACHERS
from backtrail.data.understood import Understood, understood
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import Name, Section, validate
from backtrail.parameters.data import Data
from backtrail.parameters.suite import read_suite
from backtrail.teachers.recognised import READ

if TYPE_CHECKING:
    from backtrail.denoiser import NetDenoiser

TEMPLATES = Path(__file__).with_name("new_suite")
SMALLEST_SIDE = 8  # pixels
FEWEST_IMAGES, FEWEST_TEST_IMAGES = 50, 10  # density and coverage look for a fifth neighbour
MOST_HELD_OUT = 10_000
FINE, COARSE, LARGEST = 0.002, 0.006, 80.0  # noise levels of EDM's and SFD's schedules, in units of the data
WHAT_TEACHER = {
    "own-backtrail": "the teacher of another suite",
    "own-edm": "a checkpoint in EDM's format",
    "own-diffusers": "a pipeline of diffusers",
}
AUTO = "auto"
SIZES = ["tiny", "small", "full"]
FIRST_LOOKS = ["small", "tiny"]  # in the order in which they are tried
FIRST_LOOK_MINUTES = 15
MARGIN = 0.8  # of that, which an estimate may reach: what else a machine does is not counted
SIGMA_INIT = 2.5  # Diff-Instruct's noise level of the student's input


class _Named(Section):
    """The name of a suite, by the rules of params.yaml."""

    suite: Name


@dataclass(frozen=True)
class Budget:
    """The numbers of one device and size, by name, and those of all others for comments."""

    column: str
    columns: list[str]
    table: dict[str, list[Any]]

    @classmethod
    def read(cls, device: str, size: str) -> Self:
        """Those of budgets.yaml."""
        table = load_yaml((TEMPLATES / "budgets.yaml").read_text(encoding="utf-8"))
        return cls(f"{device} {size}", table.pop("columns"), table)

    def chosen(self) -> dict[str, Any]:
        """The numbers of this column."""
        return {key: values[self.columns.index(self.column)] for key, values in self.table.items()}

    def others(self, key: str) -> str:
        """What the other columns say of a number, as a comment."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.columns, self.table[key], strict=True) if name != self.column)


@click.command()
@click.argument("name")
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder or zip of your images; folders in it are classes.")
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help=f"What to distil: {READ}.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", help="What the budget is for; auto: what is here.")
@click.option(
    "--size",
    type=click.Choice([AUTO, *SIZES]),
    default=AUTO,
    help="A first look (tiny, small), or numbers that are worth a table (full); auto: small, or tiny where that takes more than "
    f"{FIRST_LOOK_MINUTES} minutes here.",
)
def command(name: str, images: Path, teacher: Path | None, device: str, size: str) -> None:
    """Write suites/NAME/params.yaml for your own images, and say how they are read, what a run costs, and how to start it.

    Run it in the repository's folder. Without a teacher, a small one is trained on the images. Images and teacher are not copied: links in
    the suite's folder lead to them, because parameters hold no absolute path.
    """
    folder = _new_folder(name)
    from backtrail.cli.measured_cost import cost_of, duration  # here: torch takes seconds, and a wrong name is said at once

    denoiser = _denoiser(teacher)
    device, sizes = _device_and_sizes(device, size)
    found = _understood(images)
    _check_told(found, denoiser, teacher)
    values = _values(name, found, Budget.read(device, sizes[0]), denoiser, teacher)  # the links are alike for all sizes
    with _undone_on_error(folder) as made:
        linked = [_link(images, folder / values["images"], made)]
        if teacher is not None:
            linked.append(_link(teacher, folder / values["teacher"], made))
        _write(folder / ".gitignore", "".join(f"/{path.name}\n" for path in linked if path), made)
        for chosen in sizes:
            values = _values(name, found, Budget.read(device, chosen), denoiser, teacher)
            _write(folder / PARAMS_FILE, _text(values), made)
            with chdir(folder):
                suite = read_suite()
                cost = cost_of(suite, denoiser, device)
            if cost.wall_minutes <= MARGIN * FIRST_LOOK_MINUTES:
                break
        with chdir(folder):
            lines = check_own_files(suite)
    click.echo("\n".join(lines))
    for path in filter(None, linked):
        click.echo(f"{path} is a link to {path.resolve()}")
    click.echo(f"{folder / PARAMS_FILE}: {values['resolution']}x{values['resolution']}, {', '.join(suite.methods)}, {device} {chosen}\n")
    click.echo("\n".join(cost.lines()))
    if device == "cpu":
        click.echo(f"About {duration(cost.wall_minutes)} in all, with {cost.at_once} stages at once.")
    click.echo(f"\nRun it:\n  snakemake -d {folder} --profile local")


def _new_folder(name: str) -> Path:
    """The suite's folder. Raises UserError for a name that is not allowed or taken, or outside of the repository's folder."""
    validate(_Named, {"suite": name}, "", "backtrail new")
    if not Path("workflow/Snakefile").is_file():
        raise UserError("workflow/Snakefile is not here: run `backtrail new` in the repository's folder, the suite is made below suites/")
    folder = Path("suites", name)
    if os.path.lexists(folder / PARAMS_FILE):
        raise UserError(f"{folder / PARAMS_FILE} is there already: choose another name, or delete the suite's folder")
    return folder


def _denoiser(teacher: Path | None) -> "NetDenoiser | None":
    """The teacher that is to be imported, read as its stage would."""
    if teacher is None:
        return None
    if not teacher.exists():
        raise UserError(f"--teacher {teacher}: nothing is there: name {READ}")
    from backtrail.teachers.imported import read_teacher, source_of_place  # here: as above

    return read_teacher(source_of_place(teacher), teacher)


def _device_and_sizes(device: str, size: str) -> tuple[str, list[str]]:
    """cpu or gpu, and the sizes to try in turn until one is a first look. Raises UserError for a size that the device does not have."""
    import torch  # here: as above

    if device == AUTO:
        device = "gpu" if torch.cuda.is_available() else "cpu"
    offered = [column.split()[1] for column in Budget.read(device, FIRST_LOOKS[0]).columns if column.startswith(device)]
    if size == AUTO:
        return device, [first for first in FIRST_LOOKS if first in offered]
    if size not in offered:
        raise UserError(f"--size {size} is not offered for a {device.upper()}: expected one of {', '.join(offered)}")
    return device, [size]


def _understood(images: Path) -> Understood:
    """How the images are read. Raises UserError where they cannot be, or are too few to measure anything."""
    if not images.exists():
        raise UserError(f"--images {images}: nothing is there: name the folder or the zip of your images")
    # Without the rules of params.yaml, which refuse an absolute path: messages name the place as it was given.
    data = Data.model_construct(name="image-folder" if images.is_dir() else "image-zip", local=str(images), held_out=0)
    found = understood(data)
    assert found is not None  # it is None for the registry's data sets alone
    if found.n_images < FEWEST_IMAGES:
        raise UserError(f"{images}: {found.n_images} images were found, expected at least {FEWEST_IMAGES}: add images")
    if 0 < (n_test := found.splits.get("test", 0)) < FEWEST_TEST_IMAGES:
        raise UserError(f"{images}: {n_test} test images were found, expected at least {FEWEST_TEST_IMAGES}: move more of them into test/")
    check_classes(data, found)
    return found


def _check_told(found: Understood, denoiser: "NetDenoiser | None", teacher: Path | None) -> None:
    """Raises UserError where a teacher of numbered classes would be told others, and draw what it is not asked for.

    A teacher of another suite has learned the labels that such folders get here too.
    """
    from backtrail.teachers.imported import source_of_place  # here: as above

    if teacher is None or denoiser is None or not denoiser.n_classes or source_of_place(teacher) == "own-backtrail":
        return
    if said := numbers_said(found):
        raise UserError(f"--teacher {teacher} would be told other classes than it was trained on: {said}")


def _values(name: str, found: Understood, budget: Budget, denoiser: "NetDenoiser | None", teacher: Path | None) -> dict[str, Any]:
    """What the template is filled with."""
    from backtrail.teachers.imported import source_of_place  # here: as above

    b = budget.chosen()
    channels, side, _ = found.shape
    is_zip, has_test_split = found.path.is_file(), "test" in found.splits
    n_test = found.splits["test"] if has_test_split else min(found.n_images // 5, MOST_HELD_OUT)
    n_train, n_classes = found.n_images - n_test, len(found.classes)
    resolution = _resolution(side, b["largest_side"]) if denoiser is None else _side_of(denoiser, found)
    low, high = (0.0, float("inf")) if denoiser is None else _noise_levels(denoiser)
    stem, net_channels = _net(resolution, b["net_stem"], b["net_channels"])
    source = None if teacher is None else source_of_place(teacher)
    kind = "trained" if source is None else "imported"
    t_max = min(LARGEST, high)
    return {
        "name": name, "title": f"Distilling a diffusion model on {name}", "column": budget.column, "b": b, "other": budget.others,
        "n_train": n_train, "n_test": n_test, "has_test_split": has_test_split, "n_classes": n_classes, "channels": channels,
        "shape": f"{side}x{side} {'grey' if channels == 1 else 'RGB'}", "resolution": resolution, "sides": _sides(side, denoiser),
        "data_name": "image-zip" if is_zip else "image-folder", "images": "images.zip" if is_zip else "images",
        "what_images": f"the {'zip' if is_zip else 'folder'} of your images, relative to this one",
        "source": source, "teacher": OWN_TEACHERS[source][0][0] if source and teacher is not None and teacher.is_file() else "teacher",
        "what_teacher": WHAT_TEACHER.get(source or "", ""),
        "classifier_batch": min(128, n_train), "teacher_batch": min(b["teacher_batch"], n_train),
        "stem": stem, "net_channels": net_channels,
        "teacher_knows_classes": denoiser is not None and denoiser.n_classes > 0,
        "guided": source is None and n_classes > 1, "few_step": ["trajectory", "sfd", *(["sfd-v"] if _takes_steps(denoiser) else [])],
        "t_fine": max(FINE, low), "t_coarse": max(COARSE, low), "t_max": t_max, "sigma_init": min(SIGMA_INIT, t_max),
        "one_step_lr": b[f"one_step_lr_{kind}"], "few_step_lr": b[f"few_step_lr_{kind}"],
    }  # fmt: skip


def _takes_steps(denoiser: "NetDenoiser | None") -> bool:
    """Whether the teacher's network, or the one that is trained here, has a place for SFD-v's step condition."""
    if denoiser is None or not hasattr(denoiser.net, "config"):
        return True
    from backtrail.nets.diffusers_steps import no_place_for_steps  # here: as above

    return no_place_for_steps(denoiser.net) is None


def _resolution(side: int, largest: int) -> int:
    """The largest even divisor of the images' side up to `largest`, or the smallest above it. Raises UserError if there is none."""
    even = _divisors(side)
    if not even:
        raise UserError(
            f"the images' side of {side} pixels has no even divisor from {SMALLEST_SIDE} on, and a network halves it: scale the images"
        )
    return max((n for n in even if n <= largest), default=min(even))


def _divisors(side: int) -> list[int]:
    return [n for n in range(SMALLEST_SIDE, side + 1, 2) if side % n == 0]


def _sides(side: int, denoiser: "NetDenoiser | None") -> str:
    """What the comment beside the resolution says."""
    if denoiser is not None:
        return "the teacher's"
    return f"{side} pixels can become {', '.join(map(str, _divisors(side)))} (teacher.net.resolution follows)"


def _side_of(denoiser: "NetDenoiser", found: Understood) -> int:
    """The teacher's resolution. Raises UserError where the images cannot be pooled to it, or it is for other channels or classes."""
    from backtrail.teachers.imported import check_teacher

    _, height, width = denoiser.image_shape
    side = found.shape[1]
    if height != width or side % height:
        raise UserError(
            f"the teacher is for {height}x{width} pixels, the images have {side}x{side}: expected squares of a multiple of its side: "
            "scale the images"
        )
    check_teacher(denoiser, (found.shape[0], height, width), len(found.classes))
    return height


def _noise_levels(denoiser: "NetDenoiser") -> tuple[float, float]:
    """The smallest and the largest noise level that the teacher knows, rounded inwards to three digits."""
    low, high = denoiser.noise_range.sigma_min, denoiser.noise_range.sigma_max
    if (levels := getattr(denoiser, "sigmas", None)) is not None:  # discrete time, whose sampler may be asked beyond its ends
        low, high = max(low, float(levels.min())), min(high, float(levels.max()))
    return (float(f"{low * 1.005:.3g}") if low else 0.0, float(f"{high * 0.995:.3g}"))


def _net(resolution: int, stem: int, channels: list[int]) -> tuple[int, list[int]]:
    """Stem and channels of the built-in net, of fewer levels and without a stem where the resolution cannot be halved as often."""
    for n_levels in range(len(channels), 0, -1):
        for folded in (stem, 1):
            if resolution % (folded * 2 ** (n_levels - 1)) == 0:
                return folded, channels[:n_levels]
    raise AssertionError(resolution)  # a stem of one and a single level fit everything


def _text(values: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("params.yaml.j2").render(values)


@contextmanager
def _undone_on_error(folder: Path) -> Iterator[list[Path]]:
    """The suite's folder; what was made of it, and noted in the list, is taken away again if anything goes wrong."""
    made = [path for path in (folder.parent, folder) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield made
    except BaseException:
        for path in reversed(made):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        raise


def _link(target: Path, link: Path, made: list[Path]) -> Path | None:
    """Let `link` lead to `target`; None if it is the target itself. Raises UserError if something else is there."""
    if os.path.lexists(link):
        if link.resolve() == target.resolve():
            return None
        raise UserError(f"{link} is there already and is not {target}: move it away")
    link.symlink_to(target.resolve())
    made.append(link)
    return link


def _write(path: Path, text: str, made: list[Path]) -> None:
    """A file that was not there before this command; nothing for an empty text or where one was."""
    if text and (path in made or not path.exists()):
        atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))
        if path not in made:
            made.append(path)
