"""The README's worked example of a new method, done step by step on a copy of the code: what it says is what has to be typed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from backtrail.artifacts import load_json
from backtrail.tables import load_csv
from pipeline.conftest import ROOT, tiny, write_images
from unit.refusals import as_yaml, self_contained

METHOD, LOSS = "sfd-smooth", "smooth-l1"
NEEDED = ("fetch", "dataset", "classifier", "reference@classifier", "teacher")
OWN = (f"trajectories@{METHOD}", f"trajectory-distillation@{METHOD}-0", f"samples@{METHOD}-0")
RUN = """
import sys
from backtrail.cli import backtrail
from backtrail.laid_down import declared_stages
commands = {stage.name: stage.command for stage in declared_stages()}
for name in sys.argv[1:]:
    backtrail([commands[name], "--stage", name], standalone_mode=False)
"""


def steps() -> tuple[str, str, dict]:
    """The three blocks of the README: the rule, the line of the parameters, the entry in params.yaml."""
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("### Add a method\n")[2].partition("\n## ")[0]
    (rule, line), (entry,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL), re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)
    return rule, line, yaml.safe_load(entry)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the example's two edits."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "workflow", "data/local"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    rule, line, _ = steps()
    with open(folder / "src/backtrail/methods/sfd/distillation.py", "a", encoding="utf-8") as file:
        file.write(f"\n\n{rule}")
    path = folder / "src/backtrail/parameters/trajectory_distillation.py"
    text, n_replaced = re.subn(r"^    loss: Literal\[.*\n", line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert n_replaced == 1
    path.write_text(text, encoding="utf-8")
    return folder


def python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    return subprocess.run([sys.executable, *arguments], cwd=checkout / "suite", env=environment, capture_output=True, text=True)


def test_the_methods_entry_is_refused_without_the_edits(tmp_path: Path) -> None:
    values, entry = self_contained(), steps()[2]
    for section, of in entry.items():
        values[section] |= of
    (tmp_path / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "backtrail", "check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and f"trajectory_distillation.{METHOD}.loss" in done.stderr


@pytest.mark.slow
def test_the_example_trains_a_method_of_its_own(checkout: Path) -> None:
    folder = checkout / "suite"
    (folder / "data/local").mkdir(parents=True)
    write_images(folder / "images")

    def write(values: dict) -> None:
        for section, of in steps()[2].items():
            values[section] |= of
        if values["suite"] == "tiny":
            values["trajectory_distillation"][METHOD] |= {"rounds": 4, "batch": 8, "pool": 2, "evaluate_every": 2}
        (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")

    write(self_contained())
    said = python(checkout, "-m", "backtrail", "check")
    assert said.returncode == 0 and METHOD in said.stdout, said.stderr
    write(tiny(self_contained()))
    assert python(checkout, "-m", "backtrail", "pipeline").returncode == 0
    assert python(checkout, "-m", "backtrail", "code").returncode == 0
    done = python(checkout, "-c", RUN, *NEEDED, *OWN)
    assert done.returncode == 0, done.stderr
    curve = load_csv(folder / f"results/curves/{METHOD}/seed0.csv")
    assert curve["fd_classifier"].notna().all() and len(curve) == 3
    record = load_json(folder / f"results/records/trajectory-distillation@{METHOD}-0.json")
    assert record["parameters"][f"trajectory_distillation.{METHOD}"]["loss"] == LOSS
    assert (folder / f"results/samples/{METHOD}/seed0.safetensors").stat().st_size > 0
