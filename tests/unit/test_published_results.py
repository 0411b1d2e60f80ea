"""What the repository publishes: a teacher whose solvers are in order, and weights that are those of the suite that trained them."""

import itertools
from pathlib import Path

import pytest
import yaml

from backtrail import layout
from backtrail.artifacts import file_digest, load_json
from backtrail.ledger.gathered import read_gathered
from backtrail.parameters.suite import read_suite

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "suites/fashion-mnist-teacher"
SPREAD = 1.02  # of a Frechet distance of 5,000 images between two sets of seeds, generously


@pytest.mark.parametrize("solver", ["euler", "dpmpp-3m"])
def test_more_evaluations_are_never_worse(solver: str) -> None:
    """In the features of the tables; in those of the classifier both end near the floor, where the order is chance."""
    by_nfe = load_json(TRAINED / layout.metrics())["values"][solver]
    distances = [by_nfe[nfe]["fd_efficientnet_lite0"] for nfe in sorted(by_nfe, key=lambda key: int(key.removeprefix("nfe")))]
    assert len(distances) >= 3
    assert all(more <= SPREAD * fewer for fewer, more in itertools.pairwise(distances)), distances


@pytest.mark.parametrize(
    ("suite", "trained", "parts"),
    [
        (ROOT, TRAINED, {"teacher": [layout.TEACHER], "classifier": [layout.CLASSIFIER]}),
        (
            ROOT / "suites/fashion-text",
            ROOT / "suites/fashion-text-teacher",
            {
                "text-teacher": [layout.TEACHER],
                "text-autoencoder": [layout.AUTOENCODER],
                "text-judges": [layout.JUDGE, layout.CAPTION_TOWER],
            },
        ),
    ],
    ids=["built-in", "fashion-text"],
)
def test_the_weights_are_those_of_the_suite_that_trained_them(suite: Path, trained: Path, parts: dict[str, list[str]]) -> None:
    teacher = read_suite(suite / "params.yaml").teacher
    folder, records = suite / teacher.local, read_gathered(trained)
    assert len(teacher.sha256) == sum(map(len, parts.values()))
    for stage, paths in parts.items():
        record = yaml.safe_load(records[layout.record(stage)])
        for path in paths:
            digest = file_digest(folder / Path(path).name)
            assert digest == record["outputs"][path] == teacher.sha256[Path(path).name]
            assert digest in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
