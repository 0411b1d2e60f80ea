"""The HTML page: whole, self-contained, the same bytes on every run, and nothing in it but what the tables say."""

import base64
import html
import json
import re
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, Browser
from synthetic_suite import METRIC, SEEDS, SOLVERS, parameters, write_json, write_parameters, write_suite

from backtrail.artifacts import file_digest, load_json
from backtrail.cli.compute_cost import count, forward_gflop, inception_gflop, network
from backtrail.cli.plan import A100_HALF_TFLOPS, operations
from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.ledger.chains import chains
from backtrail.ledger.numbers import LAYOUTS
from backtrail.ledger.record import digests
from backtrail.parameters.suite import read_suite
from backtrail.report.against_paper import HOURS_FILE
from backtrail.report.figures import FIGURES, render_figure
from backtrail.report.html import linked_numbers, render_report
from backtrail.report.tables import render_table

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "link", "br", "hr", "input"}
KEYS = {key for layout in LAYOUTS.values() for key in layout.keys}


class Page(HTMLParser):
    """Reads a page; fails on tags that are closed in the wrong order, and keeps tags, ids and texts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def below(self, key: str) -> str:
        """The text of the list with this id, its white space closed up."""
        start = self.source.index(f'<ul class="chain" id="{key}">')
        end = self.source.index("</details>", start)
        return " ".join(re.sub(r"<[^>]+>", " ", self.source[start:end]).split())


@dataclass
class Shown:
    """A cell as it is shown: under which heading, its text, and its link with what the chain's window is told."""

    heading: str
    text: str
    link: str | None
    data: dict[str, str]


class Cells:
    """The cells of the page's tables."""

    def __init__(self, page: Page):
        self.source = page.source

    def of(self, key: str) -> Iterator[Shown]:
        for row in self._rows(key):
            yield from row

    def rows(self, key: str) -> list[dict[str, str]]:
        return [{cell.heading: cell.text for cell in row} for row in self._rows(key)]

    def _rows(self, key: str) -> Iterator[list[Shown]]:
        start = self.source.index(f'<table id="{key}">')
        table = self.source[start : self.source.index("</table>", start)]
        headings = [html.unescape(text) for text in re.findall(r'<th scope="col"><button type="button">(.*?)</button>', table)]
        for row in re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.S):
            found = re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)
            yield [self._cell(heading, cell) for heading, cell in zip(headings, found, strict=True)]

    def _cell(self, heading: str, cell: str) -> Shown:
        link = re.search(r'<a href="([^"]*)"', cell)
        data = {name: html.unescape(text) for name, text in re.findall(r'data-(\w+)="([^"]*)"', cell)}
        return Shown(heading, html.unescape(re.sub(r"<[^>]+>", "", cell)), link[1] if link else None, data)


def write_records(folder: Path) -> None:
    """Records of the stages that a real suite would have, as far as the chains need them."""
    measured = ["results/metrics", "results/curves", "results/mismatch", "results/paths", "results/reference"]
    recorded = {"tables": (measured, "reports/tables/*")}
    (figures,) = [stage for stage in declared_stages(ROOT) if stage.name == "figures"]
    recorded["figures"] = (list(figures.deps), "reports/figures/*")
    recorded |= {"dataset": ([], "data/*"), "reference": (["data/dataset.safetensors"], "results/reference/*")}
    made = {"metrics": "samples", "samples": "", "curves": "", "mismatch": "", "states": "", "path-samples": ""}
    for kind, source in made.items():
        for path in sorted((folder / "results" / kind).rglob("*.*")):
            name = path.relative_to(folder / "results" / kind).with_suffix("").as_posix()
            inputs = [f"results/{source}/{name}.safetensors"] if source else ["data/dataset.safetensors"]
            recorded[f"{kind}@{name.replace('/', '-')}"] = (inputs, path.relative_to(folder).as_posix())
    for path in sorted((folder / "results/paths").glob("*/*")):
        recorded[f"path@{path.parent.name}-{path.name}"] = (["data/dataset.safetensors"], path.relative_to(folder).as_posix())
    for stage, (inputs, pattern) in recorded.items():
        outputs = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
        sha256 = {path: next(iter(digests([str(folder / path)]).values())) for path in [*inputs, *outputs]}
        about = {"stage": stage, "parameters": {}, "notes": {}, "seeds": []}
        about |= {"inputs": {path: sha256[path] for path in inputs}, "outputs": {path: sha256[path] for path in outputs}}
        write_json(folder / f"results/records/{stage.replace('/', '-')}.json", about)


def build(folder):
    for name in FIGURES:
        render_figure(name, folder)
    for name in ("results", "claims"):
        render_table(name, folder)
    write_records(folder)
    render_report(folder, chains(folder))
    return folder / "reports/index.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = write_suite(tmp_path_factory.mktemp("suite"))
    write_parameters(folder, parameters() | {"teacher_samples": {"samplers": {name: {} for name in SOLVERS}}})
    return build(folder)


@pytest.fixture(scope="module")
def suite(page_file):
    return page_file.parent.parent


@pytest.fixture(scope="module")
def page(page_file):
    return Page(page_file.read_text(encoding="utf-8"))


def test_nothing_is_fetched(page, page_file):
    links = [attributes[name] for _, attributes in page.tags for name in ("href", "src") if attributes.get(name)]
    elsewhere = [link for link in links if not link.startswith(("#", "data:"))]  # to follow, and nothing that is loaded
    assert links and all(link == "run.html" or link.startswith("https://arxiv.org/abs/") for link in elsewhere)
    assert not [attributes["src"] for _, attributes in page.tags if not attributes.get("src", "data:").startswith("data:")]
    style = re.search(r"<style>(.*?)</style>", page_file.read_text(encoding="utf-8"), re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert all("src" not in attributes for attributes in page.all("script"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere_and_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= set(ids)


def test_pictures_have_texts_and_their_files_are_inside(page, page_file):
    images = page.all("img")
    assert len(images) == len(FIGURES)
    assert all(len(image["alt"]) > 50 for image in images)
    inside = {link["download"]: link["href"] for link in page.all("a") if "download" in link}
    for name in FIGURES:
        for kind in ("png", "pdf", "csv"):
            head, _, content = inside[f"{name}.{kind}"].partition(",")
            assert head.endswith(";base64")
            assert base64.b64decode(content) == (page_file.parent / f"figures/{name}.{kind}").read_bytes()
    assert base64.b64decode(images[0]["src"].partition(",")[2]) == (page_file.parent / "figures/convergence.svg").read_bytes()


def test_every_number_of_ours_is_a_link_to_its_chain(page, suite):
    """Cells of the tables of results, of claims, of seeds and of the figures' data; the papers' link to their sources."""
    cells = Cells(page)
    for key in ("results", "claims", "seeds", "costs", *(f"data-figures-{name}" for name in FIGURES if name != "samples")):
        keys = {"Seeds", "Seed", "NFE", "Guidance", *KEYS} if key != "results" else {"NFE", "Guidance", *KEYS}
        bare = [cell for cell in cells.of(key) if re.match(r"[-+]?\d", cell.text) and not cell.link and cell.heading not in keys]
        assert not bare, (key, bare[:5])
    quoted = [cell for cell in cells.of("paper") if cell.heading == "Paper's FID-50k"]
    assert len(quoted) > 90 and all(cell.link and cell.link.startswith("#paper-") for cell in quoted)


def test_a_number_says_all_its_digits_its_seeds_and_its_chain(page, suite):
    (cell,) = [cell for cell in Cells(page).of("results") if cell.text == "52.0 ± 1.3"]
    values = [load_json(suite / f"results/metrics/sfd-v/seed{seed}.json")["values"]["student"]["nfe5"][METRIC] for seed in SEEDS]
    assert cell.data["name"] == f"reports/tables/results.csv:sfd-v,nfe=5,{METRIC}_mean"
    assert float(cell.data["exact"]) == pytest.approx(statistics.fmean(values), rel=1e-8)
    assert cell.data["seeds"] == "; ".join(f"seed {seed}: {value!r}" for seed, value in zip(SEEDS, values, strict=True))
    chain = page.below(cell.link[1:])
    for seed in SEEDS:
        links = [f"results/{kind}/sfd-v/seed{seed}.{ending}" for kind, ending in (("metrics", "json"), ("samples", "safetensors"))]
        assert all(f"{file} {file_digest(suite / file)[:12]}" in chain for file in links), chain
    assert "results/metrics/sfd/" not in chain and "data/dataset.safetensors" in chain


def test_the_page_says_what_was_not_run_and_what_it_would_take(page, page_file):
    rows = Cells(page).rows("paper")
    hours = yaml.safe_load(HOURS_FILE.read_text(encoding="utf-8"))["cifar10"]["sfd"]
    sfd = [row for row in rows if row["Method"] == "SFD" and row["Data set"] == "CIFAR-10"]
    assert {row["Verdict"] for row in sfd} == {"not run"} and {row["Why"] for row in sfd} == {f"needs about {hours:.1f} GPU-hours"}
    assert {"2": "0.64", "3": "0.92", "4": "1.17", "5": "1.42"}.items() <= {row["NFE"]: row["Paper's A100 hours"] for row in sfd}.items()


@pytest.mark.parametrize("suite_name", list(yaml.safe_load(HOURS_FILE.read_text(encoding="utf-8"))))
def test_the_estimated_hours_are_those_that_plan_counts(suite_name):
    quoted = yaml.safe_load(HOURS_FILE.read_text(encoding="utf-8"))[suite_name]
    suite = read_suite(Path(__file__).parents[2] / "suites" / suite_name / "params.yaml")
    counted = dict.fromkeys(quoted, 0.0)
    for row in operations(list(count(suite)), forward_gflop(network(suite)), inception_gflop()).itertuples():
        method = row.stage.partition("@")[2].removesuffix(f"-{suite.seeds[0]}") or "teacher"  # its solvers
        if method in counted and row.stage != "teacher":
            counted[method] += row.tflop / A100_HALF_TFLOPS / 3600
    assert counted == pytest.approx(quoted, rel=0.2)


def test_the_head_links_the_papers_and_the_run_and_every_verdict_is_explained(page):
    text = page.source
    for number in ("2408.15991", "2409.19681", "2305.18455"):
        assert f'href="https://arxiv.org/abs/{number}"' in text[: text.index("<main")]
    assert 'href="run.html"' in text[: text.index("<main")]
    told = dict(re.findall(r'<dt[^>]*><span class="badge \w+">([^<]+)</span></dt><dd>([^<]+)</dd>', text))
    shown = {cell.text for key in ("claims", "paper") for cell in Cells(page).of(key) if cell.heading == "Verdict"}
    assert shown <= set(told) and all(len(sentence) > 10 for sentence in told.values())


def test_the_pipeline_is_drawn_from_what_the_page_rests_on(page):
    told = page.source[page.source.index('<desc id="dag-told">') : page.source.index("</desc>")]
    said = dict(re.findall(r"([a-z-]+)(?: \(\d+\))?(?:, from ([^.]*))?\.", told))
    assert {"dataset", "metrics", "path", "tables", "figures"} <= set(said) and "report" not in said and not said["dataset"]
    assert said["metrics"] == "samples" and {"metrics", "mismatch"} <= set(said["tables"].split(", "))
    assert any(heading.get("id") == "section-pipeline" for heading in page.all("h2"))


def test_the_headline_counts_the_claims(page):
    assert "Of 12 claims of the papers judged on fashion-mnist with 3 seeds: 8 held, 2 not held, 2 undecided at this size." in "".join(
        page.texts
    )


def test_the_page_is_the_same_on_every_run_and_in_every_folder(page_file, tmp_path):
    suite = page_file.parent.parent
    before = page_file.read_bytes()
    render_report(suite, chains(suite))
    assert page_file.read_bytes() == before
    moved = tmp_path / "elsewhere"
    suite.rename(moved)
    try:
        render_report(moved, chains(moved))
        assert (moved / "reports/index.html").read_bytes() == before
        assert str(suite).encode() not in before
    finally:
        moved.rename(suite)


def test_hostile_names_are_text(tmp_path):
    """A solver's name comes from a metric file; it must end up as text in the page, wherever it stands."""
    hostile = "</td><script>alert(1)</script>"
    folder = write_suite(tmp_path)
    path = folder / "results/metrics/teacher.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["values"][hostile] = content["values"].pop("euler")
    path.write_text(json.dumps(content), encoding="utf-8")
    values = parameters()
    write_parameters(folder, values | {"report": values["report"] | {"title": "<b>&\"'"}})
    page = Page(build(folder).read_text(encoding="utf-8"))
    assert len(page.all("script")) == 2  # the values to compare, and the page's own
    assert not page.all("b")[4:]  # the four tiles alone
    assert hostile in page.texts
    assert "<b>&\"'" in page.texts


def test_what_stands_in_the_figures_of_axes_alone_is_said_where_they_are_drawn(suite, tmp_path):
    folder = tmp_path / "suite"
    shutil.copytree(suite, folder)
    values = parameters()
    axis = {"label": "Knob", "shows": "What the knob does", "baseline": "disback", "methods": {"disback": 1, "slow": 2, "fast": 3}}
    write_parameters(folder, values | {"report": values["report"] | {"axes": {"knob": axis}}})
    said = "The 2 methods and samplers that vary one thing"
    render_report(folder)
    page = (folder / "reports/index.html").read_text(encoding="utf-8")
    assert said not in page and "section-axes" not in page
    (folder / "reports/axes").mkdir()
    for kind in ("png", "svg", "pdf", "csv"):
        shutil.copy(folder / f"reports/figures/nfe.{kind}", folder / f"reports/axes/knob.{kind}")
    (folder / "reports/axes/knob.md").write_text("The knob.\n", encoding="utf-8")
    render_report(folder)
    page = Page((folder / "reports/index.html").read_text(encoding="utf-8"))
    assert any(said in text for text in page.texts) and {"href": "#section-axes"} in page.all("a")
    assert "section-axes" in {attributes.get("id") for attributes in page.all("h2")}


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("reports/figures/nfe.svg", "stage `figure` of nfe"),
        ("reports/tables/claims.csv", "stage `tables`"),
        ("results/metrics/sfd/seed0.json", "stage `metrics` of sfd, seed 0"),
    ],
)
def test_a_missing_part_is_named(page_file, file, stage):
    suite = page_file.parent.parent
    path = suite / file
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(UserError, match=f"{re.escape(file)} is missing: {stage}"):
            render_report(suite)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_page_works_in_a_browser_and_fetches_nothing(browser, page_file):
    browser.open(page_file)
    wrong = [event["params"] for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert not wrong and [url for url in asked if not url.startswith("data:")] == [page_file.resolve().as_uri()]
    assert browser.js("document.querySelector('a[download=\"nfe.svg\"]').href.startsWith('data:image/svg+xml')")


def test_a_keyboard_meets_the_skip_link_first_and_passes_a_table(browser, page_file):
    browser.open(page_file)
    browser.press("Tab")
    assert browser.js("document.activeElement.textContent") == "Skip to the claims"
    assert browser.js("document.activeElement.getBoundingClientRect().left") >= 0  # it is seen when it has the focus
    browser.press("Enter")
    assert browser.js("document.activeElement.id") == "content"
    browser.js("document.querySelector('a[href=\"#after-results\"]').focus()")
    browser.press("Enter")
    browser.press("Tab")
    assert browser.js("document.activeElement.textContent") == "Download as CSV"


def test_a_chain_opens_and_closes_by_keyboard(browser, page_file):
    browser.open(page_file)
    browser.js("document.querySelector('#results td:nth-child(2)').scrollIntoView(); document.querySelector('#results th button').focus()")
    for _ in range(40):
        browser.press("Tab")
        if browser.js("document.activeElement.closest('#results td') !== null"):
            break
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    number = browser.js("document.activeElement.dataset.name")
    browser.press("Enter")
    assert browser.js("document.querySelector('dialog').open")
    shown = browser.js("document.querySelector('dialog').innerText")
    assert number in shown and "Made from" in shown and f"backtrail why '{number}'" in shown
    browser.press("Escape")
    assert not browser.js("document.querySelector('dialog').open")
    assert browser.js("document.activeElement.dataset.name") == number


def test_tables_sort_by_keyboard(browser, page_file):
    browser.open(page_file)
    cells = "[...document.querySelectorAll('#results tbody tr')].map((row) => row.cells[1].textContent)"
    browser.js("document.querySelectorAll('#results th button')[1].focus()")
    browser.press("Enter")
    numbers = [int(text.split()[0]) for text in browser.js(cells) if text[0].isdigit()]
    assert numbers == sorted(numbers) and browser.js("document.querySelectorAll('#results th')[1].ariaSort") == "ascending"
    browser.press("Enter")
    assert [int(text.split()[0]) for text in browser.js(cells) if text[0].isdigit()] == numbers[::-1]
    assert browser.js(cells)[-1] == "–"  # noqa: RUF001 (a dash)


def test_seeds_and_other_suites_stand_side_by_side(browser, page_file, suite, tmp_path):
    """The suite itself as another one: its means must differ by nothing; a seed differs by what its metric file says."""
    page = tmp_path / "both.html"
    render_report(suite, chains(suite), [suite], page)
    browser.open(page)
    assert browser.js("[...document.querySelector('#compare-first').options].map((o) => o.text)") == [
        "fashion-mnist, mean over seeds", *(f"fashion-mnist, seed {seed}" for seed in SEEDS), f"{suite.name}, mean over seeds",
    ]  # fmt: skip
    choose = "const s = document.querySelector('#compare-second'); s.value = '%d'; s.dispatchEvent(new Event('change'))"
    rows = "[...document.querySelectorAll('#compared tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
    linked = "[...document.querySelectorAll('#compared tbody td:nth-child(2) a')].map((a) => Number(a.dataset.exact ?? a.textContent))"
    assert len(browser.js(linked)) == len(browser.js(rows)) and all(name for name in browser.js(linked))
    browser.js("{" + choose % 4 + "}")
    same = browser.js(rows)
    assert len(same) > 20 and all(abs(float(row[3])) < 1e-6 for row in same)
    browser.js("{" + choose % 2 + "}")
    found = {row[0]: row for row in browser.js(rows)}["SFD, NFE 2"]
    value = load_json(suite / "results/metrics/sfd/seed1.json")["values"]["student"]["nfe2"][METRIC]
    assert float(found[2]) == pytest.approx(value, rel=1e-3) and "NaN" not in str(found)


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_is_wider_than_the_window(browser, page_file, width):
    browser.open(page_file, width)
    assert browser.js("document.documentElement.scrollWidth") <= width
    browser.js("document.querySelector('#results a[data-seeds]').click()")
    assert browser.js("document.querySelector('dialog').getBoundingClientRect().right") <= width


def test_the_numbers_of_a_caption_are_links_and_its_text_is_text():
    text = "NFE 2: 531 (±6.1), -1.2e-3 & <b> of fd_3, v1.2, sigma^2"
    found = str(linked_numbers(text, "chain-4", "reports/x.csv"))
    assert re.findall(r">([^<]*)</a>", found) == ["2", "531", "±6.1", "-1.2e-3", "2"]
    assert found.count('<a href="#chain-4" data-name="reports/x.csv">') == 5 and "&amp; &lt;b&gt; of fd_3, v1.2" in found
    assert linked_numbers("12 < 13", "") == "12 &lt; 13"
    elsewhere = "Compare SFD, Fig. 6 and Table 2 (arXiv 2409.19681), Algorithm 1, Eq. 5"
    assert linked_numbers(elsewhere, "chain-4") == elsewhere
