"""What lies beside a pipeline that is laid down is the user's too: their lines stay, and those that a suite needs are among them."""

from pathlib import Path

import pytest

from backtrail.artifacts import load_yaml
from backtrail.laid_down import lay_down, pipeline_text
from backtrail.parameters.base import read
from backtrail.pipeline import stages_of

ROOT = Path(__file__).parents[2]
SUITES = sorted(path.parent for path in ROOT.glob("suites/*/params.yaml"))


@pytest.mark.parametrize("name", [".dvcignore", ".dvc/.gitignore"])
def test_a_user_s_lines_stay_and_what_is_lacking_is_appended(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "suites/cifar10/params.yaml").read_bytes())
    ours, path = (ROOT / name).read_text(encoding="utf-8"), tmp_path / name
    needed = [line for line in ours.splitlines() if line and not line.startswith("#")]
    path.parent.mkdir(exist_ok=True)
    mine = f"# mine\n/notes/\n{needed[1]}\n!kept"
    path.write_text(mine, encoding="utf-8")
    assert name in lay_down(tmp_path, writes=False) and path.read_text(encoding="utf-8") == mine
    assert name in lay_down(tmp_path)
    found = path.read_text(encoding="utf-8")
    assert found.startswith(mine + "\n") and set(needed) <= set(found.splitlines()) and found.count(f"{needed[1]}\n") == 1
    assert lay_down(tmp_path) == [] == lay_down(tmp_path, writes=False)
    path.write_text(f"{ours}/notes/\n", encoding="utf-8")
    assert lay_down(tmp_path) == [] and path.read_text(encoding="utf-8") == f"{ours}/notes/\n"


def test_the_suites_that_have_run_lack_no_line() -> None:
    for folder in (path.parent for path in ROOT.glob("suites/*/.dvcignore")):
        assert not {".dvcignore", ".dvc/.gitignore"} & set(lay_down(folder, writes=False)), folder


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_whatever_a_stage_of_a_suite_reads_another_one_makes(folder: Path) -> None:
    """So that the suite can be run to its end: a teacher's has no tables of students."""
    params = read(folder / "params.yaml")
    stages = list(stages_of(pipeline_text(folder, params), params))
    made = {Path(out) for stage in stages for out in stage.outs}
    makers = {*made, *(parent for out in made for parent in out.parents)}
    read_by = {(dep, stage.name) for stage in stages for dep in stage.deps if dep.startswith(("data/", "results/", "reports/"))}
    given = {dep for dep, _ in read_by if dep.startswith("data/local")}
    for dep, name in read_by:
        assert dep in given or Path(dep) in makers or makers & set(Path(dep).parents), f"{name} reads {dep}, which no stage makes"
    has_axes = any((params.get("report") or {}).get(kind) for kind in ("axes", "sampler_axes"))
    assert (("reports/axes", "report") in read_by) == has_axes, "the page shows the axes' figures"


@pytest.mark.parametrize(
    "folder", [ROOT, *sorted(path.parent for path in ROOT.glob("suites/*/params.yaml"))], ids=lambda folder: folder.name
)
def test_on_two_cores_two_stages_run_at_once(folder: Path) -> None:
    """What a stage of one thread asks for leaves room for another beside it in the memory of the profile `local`."""
    profile = load_yaml((ROOT / "workflow/profiles/local/config.yaml").read_text(encoding="utf-8"))
    for name, asked in read(folder / "params.yaml")["resources"].items():
        assert asked["threads"] > 1 or 2 * asked["mem_mb"] <= profile["resources"]["mem_mb"], name
