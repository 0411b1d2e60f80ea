"""What the recipes of the containers say, as far as it can be held against the repository without building them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "apptainer.def")}


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_the_environment_is_the_lock_held_against_its_hashes(text: str) -> None:
    copied = re.findall(r"[\w-]+\.(?:lock|toml|txt)\b", re.sub(r"(?m)^#.*$", "", text))
    assert set(copied) == {"requirements.lock", "requirements-uv.lock"} and all((ROOT / name).is_file() for name in copied)
    installs = [line for line in text.splitlines() if re.search(r"\b(pip install|pip sync)\b", line)]
    assert len(installs) == 2 and all("--require-hashes" in line for line in installs)


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_the_python_is_the_one_that_the_lock_was_made_for(text: str) -> None:
    made_for = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")).group(1)
    assert re.findall(r"(?im)^from:? (\S+)$", text) == [f"python:{made_for}-slim"]


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_no_host_is_named(text: str) -> None:
    assert "://" not in text and not re.search(r"\b[\w-]+\.(io|com|org|net)\b", text)


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_the_code_is_the_checkouts_and_not_the_images(text: str) -> None:
    """An image with its own copy of the package would run other code than the one whose digest stands in dvc.lock."""
    assert not re.search(r"(?m)^\s*(COPY|ADD)? ?src\b", text) and "pip install ." not in text and "/src" in text


def test_the_image_does_not_run_as_root() -> None:
    assert re.findall(r"(?m)^USER (\S+)$", RECIPES["Dockerfile"])[-1:] == ["backtrail"]
