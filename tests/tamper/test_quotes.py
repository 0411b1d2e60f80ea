"""Numbers quoted in prose, on the machine that published them and on one whose own run rounds differently."""

import json
from pathlib import Path

from backtrail.audit.audit import Audit, audit
from backtrail.audit.findings import BROKEN, PUBLISHED, UNBACKED, VERIFIED
from backtrail.audit.published import numbers_in
from backtrail.ledger.ledger import open_ledger
from tamper.forging import rewrite_ledger
from tamper.hand_made import LAST
from tamper.repository import commit


def quote(text: str, target: str = f"{LAST}:heun/nfe34/fd") -> str:
    return f"<!-- number {target} -->{text}<!-- /number -->"


def run_again(folder: Path, fd: float) -> None:
    """What another machine's run leaves: other bytes, and a ledger of its own that fits them."""
    (folder / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": fd}}}}))
    rewrite_ledger(folder)


def verdicts(done: Audit) -> list[str]:
    return [one.verdict for one in done.judged if one.number.file == "README.md"]


def test_one_wrong_quotation_condemns_itself_alone(suite: Path) -> None:
    (suite / "README.md").write_text(f"{quote('4.25')}, {quote('4.3')}, {quote('4.2')}, {quote('4')}, {quote('5', f'{LAST}:nothing')}")
    done = audit(suite)
    # 4.25 to one digit is 4.2, by the rule of rounding half to even.
    assert verdicts(done) == [VERIFIED, BROKEN, VERIFIED, VERIFIED, UNBACKED] and done.exit_code == 30
    broken = next(finding for finding in done.findings if finding.verdict == BROKEN)
    assert "README.md says 4.3" in broken.message and len(done.resting_on(broken)) == 1


def test_a_number_is_not_rounded_away(suite: Path) -> None:
    """A recall of 0.51 is not 1, nor 0.49 nothing."""
    run_again(suite, 0.51)
    (suite / "README.md").write_text(f"{quote('0.51')}, {quote('0.5')}, {quote('1')}")
    assert verdicts(audit(suite)) == [VERIFIED, VERIFIED, BROKEN]


def test_what_was_published_may_be_quoted_where_it_is_not_repeated(suite: Path) -> None:
    (suite / "README.md").write_text(f"{quote('4.25')} {quote('4.5')} {quote('4.31')}")
    commit(suite, "README")
    run_again(suite, 4.5)
    done = audit(suite)
    assert verdicts(done) == [PUBLISHED, VERIFIED, BROKEN]
    messages = {finding.verdict: finding.message for finding in done.findings}
    assert "says 4.25, as published" in messages[PUBLISHED] and "is 4.5 in this run (+5.88%)" in messages[PUBLISHED]
    assert "README.md says 4.31" in messages[BROKEN] and "is 4.5" in messages[BROKEN]


def test_quotations_of_published_results_alone_are_no_failure(suite: Path) -> None:
    (suite / "README.md").write_text(quote("4.25"))
    run_again(suite, 4.5)
    done = audit(suite)
    assert verdicts(done) == [PUBLISHED] and done.exit_code == 0


def test_after_the_run_is_committed_the_old_number_is_broken(suite: Path) -> None:
    (suite / "README.md").write_text(quote("4.25"))
    run_again(suite, 4.5)
    commit(suite, "another machine's results")
    assert verdicts(audit(suite)) == [BROKEN]


def test_a_commit_that_contradicts_its_own_lock_published_nothing(suite: Path) -> None:
    (suite / "README.md").write_text(quote("4.31"))
    (suite / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.31}}}}))
    commit(suite, "a number without a run")
    run_again(suite, 4.5)
    assert verdicts(audit(suite)) == [BROKEN]


def test_a_number_that_contradicts_its_bytes_is_broken_whoever_quotes_it(suite: Path) -> None:
    (suite / "README.md").write_text(quote("4.26"))
    (suite / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.26}}}}))
    done = audit(suite)
    assert verdicts(done) == [BROKEN] and done.exit_code == 30
    assert not [finding for finding in done.findings if finding.subject.startswith("README.md")]


def test_a_quotation_cannot_choose_where_its_file_is_laid(suite: Path) -> None:
    """The published text is laid into a folder to be read: a path out of it, which lock and quotation name, is not followed."""
    outside = suite.parent / "victim.json"
    outside.write_text(json.dumps({"values": {"heun": {"nfe34": {"fd": 1.0}}}}))
    text = json.dumps({"values": {"heun": {"nfe34": {"fd": 2.0}}}})
    for path in (str(outside), "results/metrics/../../../victim.json", "../victim.json"):
        assert numbers_in(open_ledger(suite), path, text) == []
    assert "1.0" in outside.read_text()
    assert [number.text for number in numbers_in(open_ledger(suite), LAST, text)] == ["2.0"]
