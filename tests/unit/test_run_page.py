"""The page of the run: what the records say of commit, date, processor and cost, and nothing that they do not say."""

import copy
import html
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from synthetic_suite import write_json

from backtrail.artifacts import load_json
from backtrail.laid_down import declared_stages
from backtrail.ledger.gathered import read_gathered
from backtrail.report.run_page import RUN_PAGE, render_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the built-in suite, as git has them."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "results/records").mkdir(parents=True)
    for name, content in read_gathered(ROOT).items():
        (folder / name).write_bytes(content)
    render_run(folder)
    return folder


def rows(page: str, key: str) -> list[list[str]]:
    table = page[page.index(f'<table id="{key}">') :].partition("</table>")[0].partition("<tbody>")[2]
    return [[html.unescape(text) for text in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in re.findall(r"<tr>(.*?)</tr>", table)]


def test_costs_add_up_to_those_of_the_records(built_in: Path) -> None:
    page = (built_in / RUN_PAGE).read_text(encoding="utf-8")
    records = [load_json(path) for path in (built_in / "results/records").glob("*.json")]
    stages = {row[0]: row for row in rows(page, "stages")}
    assert set(stages) == {record["stage"] for record in records}
    for record in records:
        row = stages[record["stage"]]
        assert float(row[3].replace(",", "")) == pytest.approx(record["cpu_seconds"], abs=0.051)
        assert row[5] == record["commit"][:10] and row[8] == record["host"]["processor"] and record["started"].startswith(row[1][:10])
    whole = sum(record["cpu_seconds"] for record in records)
    assert f"they took {whole:,.0f} CPU seconds." in page
    assert sum(float(row[6]) for row in rows(page, "kinds")) == pytest.approx(100, abs=1.5)
    assert {record["commit"][:10] for record in records} == set(re.findall(r"\b[0-9a-f]{10}\b", page.partition("<nav")[0]))


def test_what_has_not_run_and_what_was_not_committed_is_said(built_in: Path, tmp_path: Path) -> None:
    (tmp_path / "results/records").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    render_run(tmp_path)
    assert "none has run." in (tmp_path / RUN_PAGE).read_text(encoding="utf-8")
    one = load_json(next((built_in / "results/records").glob("path@*.json")))
    odd = copy.deepcopy(one) | {"dirty": True, "device": "<script>", "gpu_seconds": 12.0, "commit": None}
    write_json(tmp_path / f"results/records/{one['stage']}.json", odd)
    write_json(tmp_path / "results/records/path@gone-0.json", odd | {"stage": "path@gone-0"})  # of a method that was taken out
    render_run(tmp_path)
    page = (tmp_path / RUN_PAGE).read_text(encoding="utf-8")
    n_paths = sum(stage.command == "path" for stage in declared_stages(ROOT))
    assert f"1 of {n_paths} ran" in page and "no commit with changes that were not committed" in page and "and 12 GPU seconds" in page
    assert "&lt;script&gt;" in page and page.count("<script>") == 1 and "gone" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [320, 1280])
def test_it_works_in_a_browser(built_in: Path, tmp_path: Path, width: int) -> None:
    with Browser(tmp_path) as browser:
        browser.open(built_in / RUN_PAGE, width)
        assert not [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        assert browser.js("document.documentElement.scrollWidth") <= width
        browser.js("document.querySelectorAll('#kinds th button')[3].click()")
        assert browser.js("document.querySelectorAll('#kinds th')[3].ariaSort") == "ascending"
        assert browser.js("document.querySelector('svg.dag rect').getBoundingClientRect().width") > 100
