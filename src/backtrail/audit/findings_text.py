"""Findings and chains as text."""

from collections.abc import Iterator

from backtrail.audit.audit import Audit, Judged
from backtrail.audit.evidence import brings
from backtrail.audit.findings import Finding

SHOWN = 6  # numbers named under a finding, and files that are not here, unless all are asked for


def findings_in_words(done: Audit, everything: bool = False) -> Iterator[str]:
    """Each finding with its link, its cure, and the numbers that rest on it; files that are only not here, together at the end."""
    for finding in done.findings:
        if not finding.absent:
            yield from _finding(finding, done.resting_on(finding), everything)
    absent = [finding for finding in done.findings if finding.absent]
    # What is no file has a name that says so: `stage:NAME`, `ledger.seal:signature`.
    files, others = ([finding for finding in absent if (":" in finding.subject) == of_others] for of_others in (False, True))
    total, cure = sum(finding.size_bytes for finding in files), f"; `{brings(done.ledger.folder)}` brings them"
    yield from _absent(f"{len(files)} files, {total:,} bytes", cure, files, done, everything)
    yield from _absent(f"{len(others)} commits or keys", "", others, done, everything)
    for one in done.judged:
        if any(finding not in done.findings for finding in one.because):
            yield f"{one.verdict}: {one.number.name} = {one.number.text}: no stage made what it would rest on"


def _absent(what: str, cure: str, findings: list[Finding], done: Audit, everything: bool) -> Iterator[str]:
    if not findings:
        return
    resting = {one.number.name for finding in findings for one in done.resting_on(finding)}
    yield f"not here: {what}; {len(resting):,} numbers rest on them{cure}"
    for finding in findings if everything else findings[:SHOWN]:
        yield f"  {finding.message}{f'; `{finding.cure}`' if finding.cure else ''}"
    if len(findings) > SHOWN and not everything:
        yield f"  and {len(findings) - SHOWN} more (--all names them)"


def _finding(finding: Finding, resting: list[Judged], everything: bool) -> Iterator[str]:
    yield f"{finding.verdict}: {finding.message}"
    yield f"  link: {finding.link}{f'; cure: `{finding.cure}`' if finding.cure else ''}"
    rows = _by_row(resting)
    yield f"  {len(resting):,} numbers rest on it{':' if resting else ''}"
    for row, columns in rows if everything else rows[:SHOWN]:
        yield f"    {row}: {', '.join(columns)}"
    if len(rows) > SHOWN and not everything:
        yield f"    and {len(rows) - SHOWN} more rows (--all names them)"


def _by_row(resting: list[Judged]) -> list[tuple[str, list[str]]]:
    rows: dict[str, list[str]] = {}
    for one in resting:
        number = one.number
        rows.setdefault(number.name.rpartition(",")[0], []).append(f"{number.column} {number.text}")
    return list(rows.items())
