"""Results that are written into prose: quoted by a mark, or named as unbacked, however they are spelt."""

import re
import time
from pathlib import Path

import pytest

from backtrail.audit import prose, quotes
from backtrail.audit.audit import audit
from backtrail.audit.findings import BROKEN, UNBACKED, Finding
from backtrail.cli.quote import TEXTS
from backtrail.ledger.ledger import Ledger, open_ledger
from backtrail.ledger.numbers import find
from pipeline.conftest import ROOT
from tamper.forging import edit_lock, rewrite_lock_only
from tamper.repository import commit

pytestmark = pytest.mark.xdist_group("tamper")
TABLE = "reports/tables/results.csv"


def mark(selector: str, shown: str = "?") -> str:
    return f"<!-- number {TABLE}:{selector} -->{shown}<!-- /number -->"


def filled(ledger: Ledger, text: str) -> str:
    """A text with the right values, to two digits, in the place of question marks."""
    return re.sub(r"<!-- number (\S+) -->\?<", lambda of: f"<!-- number {of[1]} -->{float(find(ledger, of[1])[0].text):.2f}<", text)


DISBACK, SFD_V = mark("disback,fd"), mark("sfd-v,nfe=3,fd")
FLOOR = "<!-- number results/reference/classifier.json:floor/fd_classifier -->?<!-- /number -->"
CLAIM = "SFD-v beats DPM-Solver++(3M) at every NFE from 2 to 5 (FD-classifier)"
VERDICT = f"undecided at this size: {CLAIM}"


@pytest.fixture(scope="module")
def opened(finished: Path) -> Ledger:
    return open_ledger(finished)


@pytest.fixture
def found(opened: Ledger, monkeypatch: pytest.MonkeyPatch):
    """What is found in one text."""

    def of(text: str) -> list[Finding]:
        for module in (prose, quotes):
            monkeypatch.setattr(module, "texts", lambda ledger: [("RESULTS.md", filled(opened, text))])
        return [*quotes.wrong_quotes(opened, TEXTS), *prose.unmarked(opened)]

    return of


@pytest.mark.parametrize(
    "text",
    [
        f"DisBack reaches {DISBACK} at NFE 1.",
        f"| student | FD |\n|---|---|\n| DisBack, NFE 1 | {DISBACK} |\n| SFD-v, NFE 3 | {SFD_V} |\n",
        f"SFD-v ends at {SFD_V}, DisBack at {DISBACK}.",
        f"- {VERDICT}\n- {VERDICT.upper()}",
        f"- undecided with three seeds (it takes more):\n  - {CLAIM}\n- held:\n\n{CLAIM} is undecided.",
        f"## Held\n\n## Undecided\n\n- {CLAIM}\n\n## Held against the paper\n\n{CLAIM}",
        "DisBack ran for 12.5 min with 3 seeds on CIFAR-10 (arXiv 2408.15991, Table 12, Eq. 10), `lr=0.001`, at NFE 34.",
        "The data set has 60,000 images, and the teacher's loss was 0.31.",
        "DisBack with sigma = 2.5 and `beta=0.999`, at NFE 1, 2, 4 and 8, for 10,000 updates, by Eq. 2.3 and version 1.2.",
        "<!-- a note without a name: 59.8 -->\n\nDisBack is fast.",
        "DisBack (Zhang et al., 2024) was run on 2025-03-14 [12][^13], pp. 12-15, issue #123, with 95 % confidence.",
        "DisBack with PyTorch 2.4, CUDA 12.4, Python 3.11 to 3.13, on a 16 x 16 grid, 3 times as fast.",
        "DisBack: 200 epochs, batch size 128, learning rate 0.0005, 10 000 updates, 10 of 10 seeds.",
        "DisBack: seeds 0\u201363, NFEs 10 and 12, NFE \u2264 10",
        '[DisBack](https://example.org/abs/2408.15991 "Zhang 2024") is a method.',
        "# DisBack and SFD\n\n## Set-up\n\nThe value is 59.8.",
        f"SFD\u2011v, NFE 3: {SFD_V}",
        f"{SFD_V} (SFD-v, NFE 3) against {DISBACK} (DisBack, NFE 1)",
        f"DisBack and SFD-v have {DISBACK} and {SFD_V}",
        f"| FD | SFD-v, NFE 3 | DisBack |\n|---|---|---|\n| best | {SFD_V} | {DISBACK} |",
        f"| method | NFE | FD |\n|---|---|---|\n| SFD-v | 3 | {SFD_V} |\n| DisBack | 1 | {DISBACK} |",
        f"- undecided at this size (n = 2): {CLAIM}",
        f"DisBack, beside the floor of {FLOOR}",
    ],
)
def test_what_is_quoted_and_what_is_a_setting_is_left_alone(found, text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "DisBack reaches 22.59 at NFE 1.",
        "DisBack reaches 5e2.",
        "DISBACK REACHES 59.",
        "DisBack\nreaches the lowest distance of all methods that were tried here, namely\n59.8, which is good.",
        "SFD-v: 4,7,1",
        "DPM-Solver++(3M) at NFE 2 has &#53;9.8",
        "SFD\u2060-v has 5**9**.8",
        "DisBack: <b>5</b>9.8",
        "DisBack: \uff15\uff19.\uff18",
        "| DisBack, NFE 1 | 59.8 |",
        "<!-- DisBack: 59.8 -->",
        "```\nDisBack 59.8\n```",
        "`DisBack` has `59.8`",
        f"DisBack reaches 5.98 <span hidden>{DISBACK}</span>",
        f"{DISBACK} is what DisBack had once; it has 59.8 now",
        "In recall DisBack has 93 %.",
        "DisBack reaches 5<!-- x -->.9",
        "DisBack reaches 5\\.9",
        "DisBack reaches 5<wbr>.9",
        "DisBack reaches [5][a].9\n\n[a]: https://example.org",
        "DisBack: $5{.}9$",
        "$\\text{DisBack}$ reaches $\\mathbf{5}.9$",
        "DisBack: 5\ufe0f.\ufe0f9",
        "DisBack: 5\u066b9",
        "DisBack: 5\u00b79",
        "DisBack: \u0665\u0669",
        "DisBack: \U0001d7d3.\U0001d7d7",
        "DisBack reaches l2.5",
        "DisBack reaches 1O.5",
        "DisBack has a recall of .93",
        "Dis\u0412ack reaches 59.8",
        "Dis<!-- -->Back reaches 59.8",
        "DisBack: FD = 5.9",
        "DisBack (FID=5.9)",
        "DisBack (NFE 1, 5.9)",
        "DisBack reaches NFE 5.9",
        "DisBack has 59.8 images",
        "<table><tr><td>DisBack</td><td>59.8</td></tr></table>",
        "## DisBack: FD 59.8",
        "| metric | DisBack |\n|---|---|\n| FD | 59.8 |",
        "## DisBack\n\nFD: 59.8",
        "DisBack has an FD of\n59. That is the best.",
        "DisBack: FD<kbd>59.8</kbd>",
        "DisBack: FD`59.8`",
        "DisBack: FD~59.8",
        "DisBack: FD\u200b59.8",
        "DisBack: 59.8<kbd>FD</kbd>",
        "|DisBack|https://arxiv.org/abs/1|59.8|",
        "DisBack reaches an FD <around 59.8>",
        "<p>DisBack reaches an FD of <!-->59.8<!-- --></p>",
        "_SFD-v_ reaches 1.25.",
        "__SFD-v__ reaches 1.25.",
        "SFD\u2011v reaches 59.8",
        "SFD\u2212v: 59.8",
        "DisBack\u00b9 reaches 59.8",
        "DPM++(3M): 59.8",
        "SFD-v = 1.25",
        "SFD-v: fd_classifier = 1.25",
        "SFD-v's FD is 2.5x lower than DisBack's",
        "DisBack is 40 times better than before",
        "DisBack has an FD of 59.8 F",
        "DisBack: recall 0.93 s",
        "DisBack: FD-59.8",
        "## SFD-v\n\n### Quality\n\nFD: 1.25",
        "SFD-v\n=====\n\nFD: 1.25",
        "- SFD-v, NFE 2:\n  - FD 1.25",
        "**DisBack**\n\nFD: 59.8",
        "<h2>DisBack</h2>\n\nFD: 59.8",
        "DisBack:\n\n```\nFD 59.8\n```",
        "<table><tr><th>DisBack</th></tr>\n\n<tr><td>59.8</td></tr></table>",
        "SFD-v reaches 1\u200a.\u200a2",
        "$5\\mathord.9$ is what SFD-v reaches",
        "SFD-v: 5\u201a9",
        "SFD-v: 5\ua4f89",
        "![DisBack 59.8](x.png)",
        "DisBack is best[^1].\n\n[^1]: 59.8",
        "DisBack is best[^note].\n\n[^note]: with an FD of 59.8",
        "> " * 30 + "DisBack reaches 59.8",
        "- " * 300 + "DisBack reaches 59.8",
        "<span style='display:none'>DisBack 59.8</span>",
        "Nice <span hidden>`DisBack 59.8`</span>",
    ],
)
def test_a_number_beside_a_method_s_name_without_a_mark_is_unbacked(found, text: str) -> None:
    (finding,) = [one for one in found(text) if one.subject == "RESULTS.md:unmarked"]
    assert finding.verdict == UNBACKED and "1 numbers beside a method's name are quoted from nothing" in finding.message


@pytest.mark.parametrize(
    "text",
    [
        f"DisBack has a recall of {DISBACK}9",
        f"DisBack has an FD of 0.{DISBACK}",
        f"DisBack has {DISBACK}**9**",
        f"DisBack has l{DISBACK}",
        f"DisBack has O.{DISBACK}",
        f"DisBack has 1&hairsp;{DISBACK}",
        f"DisBack has &minus;{DISBACK}",
    ],
)
def test_digits_and_signs_that_touch_a_mark_make_another_number_of_it(found, text: str) -> None:
    assert [one.verdict for one in found(text) if one.subject == "RESULTS.md:unmarked"] == [UNBACKED]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"| DisBack, NFE 1 | {mark('sfd-v,nfe=3,fd')} |", "stands beside disback, and is sfd-v's"),
        (f"DisBack at NFE 1\nreaches {mark('dpmpp-3m,nfe=3,fd')}.", "stands beside disback, and is dpmpp-3m's"),
        (f"| SFD-v, NFE 2 | {mark('sfd-v,nfe=3,fd')} |", "stands beside NFE 2, and is of NFE 3"),
        (f"SFD-v has {SFD_V}, and DisBack {SFD_V}", "stands beside disback, and is sfd-v's"),
        (f"DisBack has {mark('disback,fd', '0.01')}", "says 0.01; "),
        (f"SFD\u2011v, NFE 3: {DISBACK}", "stands beside sfd-v, and is disback's"),
        (f"| FD | DisBack | SFD-v |\n|---|---|---|\n| at NFE 3 | {SFD_V} | {SFD_V} |", "stands beside disback, and is sfd-v's"),
        (f"| method | NFE | FD |\n|---|---|---|\n| SFD-v | 2 | {SFD_V} |", "stands beside NFE 2, and is of NFE 3"),
        (f"SFD-v with 2 NFE: {SFD_V}", "stands beside NFE 2, and is of NFE 3"),
        (f"SFD-v, NFE of 2: {SFD_V}", "stands beside NFE 2, and is of NFE 3"),
        (f"## SFD-v, NFE 2\n\nFD: {SFD_V}", "stands beside NFE 2, and is of NFE 3"),
        (f"## DisBack\n\nFD: {SFD_V}", "stands beside disback, and is sfd-v's"),
        (f"SFD-v, NFE 3: ![DisBack](x.png) {DISBACK}", "stands beside sfd-v, and is disback's"),
        (f"SFD-v <span style='display:none'>DisBack</span> {DISBACK}", "stands beside sfd-v, and is disback's"),
        (f"SFD-v reaches {FLOOR}", "stands beside sfd-v, and is real images'"),
        ("| DisBack | <!-- number results/metrics/sfd-v/seed0.json:student/nfe3/fd_classifier -->?<!-- /number --> |", "and is sfd-v's"),
    ],
)
def test_a_mark_that_points_to_a_better_row_is_broken(found, text: str, message: str) -> None:
    (finding,) = found(text)
    assert finding.verdict == BROKEN and message in finding.message


@pytest.mark.parametrize(
    ("text", "verdict", "message"),
    [
        (VERDICT.replace("undecided at this size", "held"), BROKEN, "says held of 'SFD-v beats DPM-Solver++(3M) at every NFE from 2 to 5'"),
        (VERDICT.replace("undecided at this size", "HELD").replace(" beats ", "\n  beats "), BROKEN, "says held of"),
        ("| SFD-v improves with every further NFE it is trained for | held |", BROKEN, "says held of 'SFD-v improves"),
        ("- held: DisBack beats every other method", UNBACKED, "gives a verdict on no claim"),
        (f"- held:\n  - {CLAIM}", BROKEN, "says held of 'SFD-v beats DPM-Solver++(3M) at every NFE from 2 to 5'"),
        (f"**Held** (three seeds):\n\n* of the few-step students:\n  * {CLAIM}", BROKEN, "says held of"),
        (f"## Not held\n\nIn FD-classifier:\n\n1. {CLAIM}", BROKEN, "says not held of"),
        (f"Held:\n\n| {CLAIM} |", BROKEN, "says held of"),
        (f"| claim | here |\n|---|---|\n| {CLAIM} | held (n = 3) |", BROKEN, "says held of"),
        (f"- Held. {CLAIM}", BROKEN, "says held of"),
        (f"- held \u2014 {CLAIM}", BROKEN, "says held of"),
        (f"- {CLAIM} held.", BROKEN, "says held of"),
        (f"{CLAIM}: held, with 3 seeds", BROKEN, "says held of"),
    ],
)
def test_a_verdict_that_is_not_the_table_s_is_named(found, text: str, verdict: str, message: str) -> None:
    (finding,) = found(text)
    assert finding.verdict == verdict and message in finding.message


def test_what_is_measured_by_other_means_is_told_and_what_stands_beside_it_is_not_spared(found, opened: Ledger) -> None:
    text = "<!-- measured: make bench -->\nDisBack takes 8.59 of a forward.\n<!-- /measured -->\n\nDisBack reaches 59.8.\n"
    (finding,) = found(text)
    assert "59.8" in finding.message and "8.59" not in finding.message
    assert list(prose.measured_otherwise(opened)) == [
        "RESULTS.md: 1 numbers are said to be measured otherwise than by the suite's stages (make bench): nothing here checks them"
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_text_is_read_as_an_editor_shows_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "README.md").write_text("DisBack reaches 59.8.\n", encoding=encoding)
    ledger = Ledger(tmp_path, {}, {}, {"students": {"disback": {}}})
    assert [finding.subject for finding in prose.unmarked(ledger)] == ["README.md:unmarked"]


@pytest.mark.parametrize("name", ["docs/more.Rmd", "docs/more.qmd", "docs/MORE.MD"])
def test_texts_in_folders_are_found_without_git_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / name).write_text("DisBack reaches 59.8.\n", encoding="utf-8")
    (finding,) = prose.unmarked(Ledger(tmp_path, {}, {}, {"students": {"disback": {}}}))
    assert finding.subject == f"{name}:unmarked"


def test_a_card_that_came_with_a_teacher_is_told_and_is_no_result_of_this_suite(tmp_path: Path) -> None:
    for name in ("mine/README.md", "RESULTS.md", "mine.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("DisBack reaches 59.8.\n", encoding="utf-8")
    ledger = Ledger(tmp_path, {}, {}, {"students": {"disback": {}}, "teacher": {"local": "mine"}, "data": {"local": "."}})
    assert [finding.subject for finding in prose.unmarked(ledger)] == ["RESULTS.md:unmarked", "mine.md:unmarked"]
    told = "mine/README.md: 1 numbers beside a method's name came with files got by hand: nothing here checks them"
    assert list(prose.measured_otherwise(ledger)) == [told]


@pytest.mark.parametrize(
    "piece",
    ["DisBack 1.5 ", "<!-- number a -->", "<!-- measured: x -->", "<!-- quote x -->", "# held\n- ", "held:\n", "[", "`", "\n ", "held "],
)
def test_a_text_made_to_be_slow_is_read_in_a_moment(found, piece: str) -> None:
    started = time.process_time()
    found(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 10


def test_another_file_that_git_tracks_is_read_and_the_right_numbers_beside_stay_verified(ledger: Path) -> None:
    (ledger / "notes").mkdir()
    text = filled(open_ledger(ledger), f"DisBack reaches 59.8.\n\nSFD-v at NFE 3: {SFD_V}\n")
    (ledger / "notes/RESULTS.md").write_text(text, encoding="utf-8")
    (ledger / "suites/other").mkdir(parents=True)
    (ledger / "suites/other/params.yaml").write_text("suite: other\n", encoding="utf-8")
    (ledger / "suites/other/README.md").write_text("DisBack reaches 59.8 in another suite.\n", encoding="utf-8")
    assert audit(ledger).exit_code == 0, "git does not track them yet"
    commit(ledger, "results")
    done = audit(ledger)
    (finding,) = done.findings
    assert done.exit_code == 20 and finding.subject == "notes/RESULTS.md:unmarked"
    assert [one.verdict for one in done.judged if one.number.file == "notes/RESULTS.md"] == ["verified"]
    assert "texts below suites/other are of other suites, for an audit there to read" in done.notes


@pytest.mark.parametrize("name", ["notes/RESULTS.markdown", "RESULTS.MKD", "notes/RESULTS.md"])
def test_a_text_is_read_by_whatever_name_markdown_has_and_whatever_lies_beside_it(ledger: Path, name: str) -> None:
    """Parameters beside it that are no suite's do not make it another suite's text, and a lock that calls it a stage's own is none."""
    (ledger / "notes").mkdir()
    (ledger / "notes/params.yaml").write_text("{}\n", encoding="utf-8")
    (ledger / name).write_text("DisBack reaches 59.8.\n", encoding="utf-8")
    edit_lock(ledger, lambda stages: stages["tables"]["outs"].append({"path": name, "hash": "md5", "md5": "0" * 32, "size": 0}))
    rewrite_lock_only(ledger)
    commit(ledger, "results")
    assert f"{name}:unmarked" in {finding.subject for finding in audit(ledger).findings}


@pytest.mark.parametrize("suite", ["", "suites/ablations", "suites/study"])
def test_this_repository_s_own_prose_is_quoted(suite: str) -> None:
    ledger = open_ledger(ROOT / suite)
    assert [finding.message for finding in [*prose.unmarked(ledger), *quotes.wrong_quotes(ledger, TEXTS)]] == []
    assert len(list(quotes.quoted(ledger, TEXTS))) > 8


def test_each_axis_of_the_ablations_is_quoted_once() -> None:
    ledger = open_ledger(ROOT / "suites/ablations")
    assert len(list(quotes.quoted(ledger, TEXTS))) == len(list((ledger.folder / "reports/axes").glob("*.csv")))
