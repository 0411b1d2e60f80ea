"""`backtrail quote` renews what prose quotes, by the renderer that the audit compares with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from backtrail.audit.audit import audit
from backtrail.audit.findings import BROKEN, PUBLISHED, UNBACKED, VERIFIED
from backtrail.cli.quote import TEXTS
from backtrail.ledger.hashes import hash_file
from tamper.forging import edit_lock, edit_record, rewrite_ledger
from tamper.hand_made import LAST, build
from tamper.repository import commit

TABLE = "reports/tables/claims.csv"
CLAIMS = """claim,text,source,quantity,verdict,n_seeds,weakest_margin,seeds_to_decide
a,SFD beats its teacher,SFD,FD,held,3,3.5,
b,SFD-v beats SFD,SFD,FD,undecided at this size,3,-0.5,26
b2,SFD-v beats SFD,SFD,KID,undecided at this size,3,0.5,inf
c,DisBack beats Diff-Instruct,DisBack,FD,undecided at this size,3,-1,
d,DisBack ends nearer,DisBack,FD,not run,0,,
"""
LIST = """- held:
  - SFD beats its teacher (FD)
- undecided at this size (seeds: how many would decide it, if the effect is the one seen; *against*: its weakest condition is against it):
  - SFD-v beats SFD (FD: 26 seeds, *against*; KID)
  - DisBack beats Diff-Instruct (FD: *against*)
- not run:
  - DisBack ends nearer (FD)"""
PROSE = f"""# Results

Heun has <!-- number {LAST}:heun/nfe34/fd -->4.1<!-- /number -->, to more digits <!-- number {LAST}:heun/nfe34/fd -->0.000<!-- /number -->,
and <!-- number {LAST}:heun/nfe34/fd --><!-- /number --> as it stands; the verdict on one claim is
<!-- number {TABLE}:a,verdict -->not held<!-- /number -->.

<!-- quote claims -->
- held: SFD-v beats everything
<!-- /quote -->
"""


@pytest.fixture
def suite(suite: Path) -> Path:
    (suite / "reports/tables").mkdir(parents=True)
    (suite / TABLE).write_text(CLAIMS)
    return suite


def backtrail(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "backtrail", *arguments], cwd=folder, capture_output=True, text=True)


def verdicts(folder: Path) -> list[str]:
    return [one.verdict for one in audit(folder, writer=TEXTS).judged if one.number.file == "README.md"]


def test_what_is_quoted_is_renewed_and_the_audit_finds_it_right(suite: Path) -> None:
    (suite / "README.md").write_text(PROSE)
    said = backtrail(suite, "quote", "--check")
    assert said.returncode == 1 and "5 quotations in 1 file differ" in said.stdout
    assert f"README.md: {LAST}:heun/nfe34,fd: 4.1 -> 4.2" in said.stdout
    assert (suite / "README.md").read_text() == PROSE, "--check writes nothing"
    assert "5 quotations in 1 file renewed" in backtrail(suite, "quote").stdout
    text = (suite / "README.md").read_text()
    assert "-->4.2<" in text and "-->4.250<" in text and "-->4.25<" in text and "-->held<" in text
    assert f"<!-- quote claims -->\n{LIST}\n<!-- /quote -->" in text
    # The table of claims is of no stage in this suite.
    assert verdicts(suite) == [VERIFIED] * 3 + [UNBACKED] * 2
    again = backtrail(suite, "quote", "--check")
    assert (again.returncode, again.stdout) == (0, "every quotation is as the results say\n")


BESIDE = """| claim | here | in `suites/study` |
|---|---|---|
| SFD beats its teacher (FD) | held (n = 3) | held (n = 10) |
| SFD-v beats SFD (FD) | undecided at this size (n = 3) | not held (n = 10) |
| SFD-v beats SFD (KID) | undecided at this size (n = 3) | undecided at this size (n = 10) |
| DisBack beats Diff-Instruct (FD) | undecided at this size (n = 3) |  |
| DisBack ends nearer (FD) | not run (n = 0) |  |
| A path helps (FD) |  | held (n = 10) |"""
STUDY = """claim,text,source,quantity,verdict,n_seeds,weakest_margin,seeds_to_decide
a,SFD beats its teacher,SFD,FD,held,10,3.5,
b,SFD-v beats SFD,SFD,FD,not held,10,-0.5,
b2,SFD-v beats SFD,SFD,KID,undecided at this size,10,0.5,inf
e,A path helps,own,FD,held,10,1,
"""


def test_another_suites_verdicts_stand_beside_and_answer_to_its_own_ledger(suite: Path) -> None:
    study = suite / "suites/study"
    (suite / "README.md").write_text("<!-- quote claims/suites/study --><!-- /quote -->")
    assert "not there" in backtrail(suite, "quote").stderr
    build(study)
    (study / "params.yaml").write_text("suite: study\n")
    (study / "reports/tables").mkdir(parents=True)
    (study / TABLE).write_text(STUDY)
    backtrail(suite, "quote")
    assert (suite / "README.md").read_text() == f"<!-- quote claims/suites/study -->\n{BESIDE}\n<!-- /quote -->"

    def said() -> list[str]:
        return [one.message for one in audit(suite, writer=TEXTS).findings if "quotes the text" in one.message]

    assert [message.partition("and ")[2].partition(";")[0] for message in said()] == [f"no stage of suites/study made {TABLE}"]
    other = f"suites/study/{TABLE} is not what suites/study's own lock and records have"

    def locked() -> None:
        """The lock alone names the bytes that lie there."""
        entry = {"path": TABLE, "hash": "md5", "md5": hash_file(study / TABLE).md5, "size": 1}
        edit_lock(study, lambda stages: stages["metrics"].update(outs=[*made, entry]))

    made = yaml.safe_load((study / "dvc.lock").read_text())["stages"]["metrics"]["outs"]
    locked()
    assert len(said()) == 1 and other in said()[0]
    edit_record(study, "metrics", lambda record: record["outputs"].update({TABLE: hash_file(study / TABLE).sha256}), in_lock=False)
    assert said() == []
    (study / TABLE).write_text(STUDY.replace("not held", "held"))
    backtrail(suite, "quote")
    assert len(said()) == 1 and other in said()[0]
    locked()
    assert len(said()) == 1 and other in said()[0], "the record still says what the stage wrote"
    (study / "dvc.lock").unlink()
    assert len(said()) == 1 and "nothing has been run here" in said()[0]


def test_marks_that_are_shown_as_code_are_no_marks(suite: Path) -> None:
    """A text that explains them loses nothing, and what it shows is no quotation."""
    text = (
        "Write `<!-- quote claims -->` where they begin,\nthen three hours' work,\nand close with `<!-- /quote -->`.\n\n"
        f"```\n<!-- number {LAST}:heun/nfe34/fd -->PLACEHOLDER<!-- /number -->\n```\n"
    )
    (suite / "README.md").write_text(text)
    assert backtrail(suite, "quote").returncode == 0 and (suite / "README.md").read_text() == text
    assert verdicts(suite) == []


def test_the_verdicts_are_those_of_the_table() -> None:
    """They stand in two places, so that an audit of bytes loads no pandas."""
    from backtrail.audit.prose import UNDECIDED
    from backtrail.report import quoted, verdicts

    assert quoted.VERDICTS == (verdicts.HELD, verdicts.NOT_HELD, verdicts.UNDECIDED, verdicts.NOT_RUN)
    assert {*quoted.EXPLAINED} == {UNDECIDED} == {verdicts.UNDECIDED}


def test_line_ends_and_all_else_stay(suite: Path) -> None:
    (suite / "README.md").write_bytes("\ufeffé\r\n<!-- quote claims --><!-- /quote -->\r\n\tend  \r\n".encode())
    backtrail(suite, "quote")
    wanted = f"\ufeffé\n<!-- quote claims -->\n{LIST}\n<!-- /quote -->\n\tend  \n".replace("\n", "\r\n")
    assert (suite / "README.md").read_bytes().decode() == wanted


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("  - SFD beats its teacher (FD)", "  - SFD-v beats its teacher (FD)"),
        ("- held:", "- not held:"),
        ("26 seeds", "6 seeds"),
        ("- not run:\n  - DisBack ends nearer (FD)", ""),
        ("  - DisBack ends", "DisBack reaches 2.1\n\n  - DisBack ends"),
    ],
)
def test_a_text_that_was_edited_is_broken(suite: Path, was: str, now: str) -> None:
    assert was in LIST
    (suite / "README.md").write_text(f"<!-- quote claims -->\n{LIST.replace(was, now)}\n<!-- /quote -->\n")
    done = audit(suite, writer=TEXTS)
    (finding,) = [one for one in done.findings if one.verdict == BROKEN]
    assert "README.md: the text claims is not what reports/tables/claims.csv says" in finding.message and done.exit_code == 30


def test_as_published_and_otherwise_here_is_told(suite: Path) -> None:
    (suite / "README.md").write_text("<!-- quote axes/nodes -->x<!-- /quote -->")
    commit(suite, "a text that nobody can write")
    (finding,) = [one for one in audit(suite, writer=TEXTS).findings if one.subject.startswith("README.md")]
    assert finding.verdict == UNBACKED and "cannot be written" in finding.message
    (suite / "README.md").write_text(f"<!-- number {LAST}:heun/nfe34/fd -->4.25<!-- /number -->")
    commit(suite, "4.25")
    (suite / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.5}}}}))
    rewrite_ledger(suite)
    assert verdicts(suite) == [PUBLISHED]
    assert "4.25 -> 4.50" in backtrail(suite, "quote").stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("<!-- number results/nothing.json:fd -->1<!-- /number -->", "README.md: not there: results/nothing.json:fd: "),
        ("<!-- quote poem -->1<!-- /quote -->", "there is no text poem to quote; known: claims, claims/FOLDER, axes/NAME"),
        ("<!-- quote claims/../x -->1<!-- /quote -->", "there is no text claims/../x to quote"),
        ("<!-- quote claims//x -->1<!-- /quote -->", "there is no text claims//x to quote"),
        ("<!-- quote axes/../../x -->1<!-- /quote -->", "there is no text axes/../../x to quote"),
    ],
)
def test_what_is_not_there_is_named_and_left(suite: Path, target: str, message: str) -> None:
    (suite / "README.md").write_text(target)
    said = backtrail(suite, "quote")
    assert said.returncode == 2 and message in said.stderr and (suite / "README.md").read_text() == target


def test_a_text_in_another_encoding_is_left_alone(suite: Path) -> None:
    (suite / "README.md").write_bytes(b"caf\xe9")
    said = backtrail(suite, "quote")
    assert said.returncode == 2 and "README.md is not UTF-8" in said.stderr and (suite / "README.md").read_bytes() == b"caf\xe9"


def test_results_without_a_ledger_can_be_quoted(suite: Path) -> None:
    (suite / "dvc.lock").unlink()
    (suite / "README.md").write_text(PROSE)
    assert backtrail(suite, "quote").returncode == 0 and "-->4.250<" in (suite / "README.md").read_text()
