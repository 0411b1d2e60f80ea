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
    if absent:
        resting = {one.number.name for finding in absent for one in done.resting_on(finding)}
        total = sum(finding.size_bytes for finding in absent)
        cures = f"`{brings(done.ledger.folder)}` brings them"
        yield f"not here: {len(absent)} files, {total:,} bytes; {len(resting):,} numbers rest on them; {cures}"
        for finding in absent if everything else absent[:SHOWN]:
            yield f"  {finding.message}{f'; `{finding.cure}`' if finding.cure else ''}"
        if len(absent) > SHOWN and not everything:
            yield f"  and {len(absent) - SHOWN} more (--all names them)"
    for one in done.judged:
        if any(finding not in done.findings for finding in one.because):
            yield f"{one.verdict}: {one.number.name} = {one.number.text}: no stage made what it would rest on"


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
