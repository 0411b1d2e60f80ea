"""The HTML page: whole, self-contained, the same bytes on every run, and nothing in it but what the tables say."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from synthetic_suite import parameters, write_parameters, write_suite

from backtrail.errors import UserError
from backtrail.report.figures import FIGURES, render_figure
from backtrail.report.html import render_report
from backtrail.report.tables import render_table

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Reads a page; fails on tags that are closed in the wrong order, and keeps tags, ids and texts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
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


def build(folder):
    for name in FIGURES:
        render_figure(name, folder)
    for name in ("results", "claims"):
        render_table(name, folder)
    render_report(folder)
    return folder / "reports/index.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    return build(write_suite(tmp_path_factory.mktemp("suite")))


@pytest.fixture(scope="module")
def page(page_file):
    return Page(page_file.read_text())


def test_nothing_is_fetched(page, page_file):
    links = [attributes[name] for _, attributes in page.tags for name in ("href", "src") if attributes.get(name)]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    style = re.search(r"<style>(.*?)</style>", page_file.read_text(), re.S)
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


def test_numbers_of_the_results_table_link_to_their_files(page, page_file):
    text = page_file.read_text()
    cell = re.search(r'<td class="num"><a href="#(source-\d+)">52\.0 ± 1\.3</a></td>', text)
    assert cell
    anchor = text.index(f'id="{cell[1]}"')
    assert "results/metrics/sfd-v/seed0.json" in text[anchor : anchor + 300]


def test_the_headline_counts_the_claims(page):
    assert "Of 12 claims of the papers judged on fashion-mnist with 3 seeds: 10 held, 2 not held." in page.texts


def test_the_page_is_the_same_on_every_run_and_in_every_folder(page_file, tmp_path):
    suite = page_file.parent.parent
    before = page_file.read_bytes()
    render_report(suite)
    assert page_file.read_bytes() == before
    moved = tmp_path / "elsewhere"
    suite.rename(moved)
    try:
        render_report(moved)
        assert (moved / "reports/index.html").read_bytes() == before
        assert str(suite).encode() not in before
    finally:
        moved.rename(suite)


def test_hostile_names_are_text(tmp_path):
    """A solver's name comes from a metric file; it must end up as text in the page, wherever it stands."""
    hostile = "</td><script>alert(1)</script>"
    folder = write_suite(tmp_path)
    path = folder / "results/metrics/teacher.json"
    content = json.loads(path.read_text())
    content["values"][hostile] = content["values"].pop("euler")
    path.write_text(json.dumps(content))
    values = parameters()
    write_parameters(folder, values | {"report": values["report"] | {"title": "<b>&\"'"}})
    page = Page(build(folder).read_text())
    assert len(page.all("script")) == 1
    assert not page.all("b")[4:]  # the four tiles alone
    assert hostile in page.texts
    assert "<b>&\"'" in page.texts


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("reports/figures/nfe.svg", "stage `figure` of nfe"),
        ("reports/tables/claims.csv", "stage `table` of claims"),
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
