"""The audit of a suite: findings, and from them a verdict for every number."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from backtrail.audit.checks import hash_findings
from backtrail.audit.findings import BROKEN, EXIT_CODES, EXTERNAL, RECOMPUTED, UNBACKED, VERIFIED, Finding, worst
from backtrail.audit.left_out import dropped, missing
from backtrail.audit.links import declared_otherwise
from backtrail.audit.plausible import EXIT_CODE, Suspicion, suspicions
from backtrail.audit.prose import measured_otherwise, unmarked
from backtrail.audit.published import FILE as PUBLISHED_FILE
from backtrail.audit.published import wrong_note
from backtrail.audit.quotes import Writer, quoted, wrong_quotes
from backtrail.audit.records import other_environment
from backtrail.audit.seals import papers_digest, seals
from backtrail.errors import UserError
from backtrail.layout import LOCK_FILE, PARAMS_FILE, RECORDS
from backtrail.ledger.confined import open_confined
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, layout_of, numbers
from backtrail.ledger.repository import changed_since_commit, silence

DOCUMENTS = ("reports/",)
REPUBLISH = "backtrail reproduced --publish"


@dataclass(frozen=True)
class Judged:
    """A number, or a whole file that people read, with its verdict and the findings that it comes from."""

    number: Number
    verdict: str
    because: tuple[Finding, ...]


@dataclass
class Audit:
    """What an audit found."""

    ledger: Ledger
    findings: list[Finding]
    judged: list[Judged]
    documents: list[Judged]
    notes: list[str] = field(default_factory=list)
    bytes_read: int = 0
    suspicions: list[Suspicion] = field(default_factory=list)
    stages_again: int = 0  # whole stages that ran again to their end

    @property
    def exit_code(self) -> int:
        """0 if every number is verified, recomputed or external; by the worst verdict or finding otherwise.

        Suspicions alone make it `plausible.EXIT_CODE`: they are no verdict on any number, and are not to be overlooked.
        """
        verdicts = [one.verdict for one in [*self.judged, *self.documents]] + [finding.verdict for finding in self.findings]
        return max(EXIT_CODES[worst(verdicts)], EXIT_CODE if self.suspicions else 0)

    def resting_on(self, finding: Finding) -> list[Judged]:
        """The numbers that inherit a finding."""
        return [one for one in self.judged if finding in one.because]

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        # A number that nothing is behind has a finding of its own, which is none of the suite's files.
        findings = list(dict.fromkeys([*self.findings, *(finding for one in self.judged for finding in one.because)]))
        order = {finding: i for i, finding in enumerate(findings)}
        return {
            "exit_code": self.exit_code,
            "bytes_read": self.bytes_read,
            "stages_again": self.stages_again,
            "notes": self.notes,
            "suspicions": [vars(one) for one in self.suspicions],
            "findings": [vars(finding) | {"numbers": [one.number.name for one in self.resting_on(finding)]} for finding in findings],
            "numbers": [
                {
                    "name": one.number.name,
                    "text": one.number.text,
                    "verdict": one.verdict,
                    "findings": [order[finding] for finding in one.because],
                }
                for one in self.judged
            ],
            "documents": [{"file": one.number.file, "verdict": one.verdict} for one in self.documents],
        }


Rerun = tuple[list[Finding], set[str], list[str], int]  # findings, files that came out the same, notes, stages that ran to their end
Recompute = Callable[[Ledger, set[str]], tuple[list[Finding], set[str], list[str]] | Rerun]


def no_text(name: str, *_: object) -> NoReturn:
    """Where nobody was handed in who writes texts."""
    raise UserError(f"nobody here writes the text {name}")


NO_TEXTS = Writer(no_text, no_text)


def audit(
    folder: str | Path = ".", recomputations: list[Recompute] | None = None, claims: Sequence[str] = (), writer: Writer = NO_TEXTS
) -> Audit:
    """Check every byte and link and what was left out, then recompute what is asked for.

    Each recomputation gives findings, the files it confirmed, notes, and, if it runs stages, how many ran again to their end. claims: the
    keys that the package's table of claims has. writer: of the texts that prose quotes whole.
    """
    ledger = open_confined(folder)
    hashes = Hashes(ledger.folder)
    findings = [*hash_findings(ledger, hashes), *wrong_quotes(ledger, writer), *unmarked(ledger), *missing(ledger, claims)]
    wrong, said = seals(ledger)
    findings += wrong
    if said_otherwise := wrong_note(ledger.folder):
        findings.append(Finding(BROKEN, f"{PUBLISHED_FILE}:machine", f"{RECORDS} -> {PUBLISHED_FILE}", said_otherwise, REPUBLISH))
    notes, confirmed = [*_notes(ledger), *papers_digest(ledger), *said], set()
    bad = {finding.subject for finding in findings if finding.verdict != VERIFIED}
    stages_again = 0
    for recompute in recomputations or []:
        found, right, said, *again = recompute(ledger, bad)
        findings += found
        confirmed |= right
        notes += said
        stages_again += sum(again)
    judged = [judge(ledger, number, findings, confirmed) for number in [*numbers(ledger), *quoted(ledger, writer)]]
    documents = list(_documents(ledger, findings, confirmed))
    return Audit(ledger, findings, judged, documents, notes, hashes.bytes_read, suspicions(ledger), stages_again)


def judge(ledger: Ledger, number: Number, findings: list[Finding], confirmed: set[str]) -> Judged:
    """The verdict on a number: that of the worst finding among all that it rests on."""
    rests = number.closure(ledger)
    because = tuple(finding for finding in findings if finding.subject in rests)
    if not because and not number.sources and not number.external:
        because = (_nothing_behind(number),)
    good = EXTERNAL if number.external else RECOMPUTED if number.file in confirmed else VERIFIED
    return Judged(number, worst([finding.verdict for finding in because], good), because)


def _nothing_behind(number: Number) -> Finding:
    return Finding(UNBACKED, number.file, f"? -> {number.name}", f"{number.name}: no stage made what this number would rest on")


def _documents(ledger: Ledger, findings: list[Finding], confirmed: set[str]) -> Iterator[Judged]:
    """Files that people read and whose numbers stand in a table already: Markdown, LaTeX, pictures, the page."""
    for file in sorted(out for out in ledger.makers if out.startswith(DOCUMENTS) and layout_of(out) is None):
        whole = Number(file, (), "", "", (file,))
        yield judge(ledger, whole, findings, confirmed)


def _notes(ledger: Ledger) -> Iterator[str]:
    """What a reader should know, and what no verdict hangs on."""
    changed = changed_since_commit(ledger.folder, (LOCK_FILE, PARAMS_FILE, "dvc.yaml", "results", "reports", ledger.code))
    if changed is None:
        yield f"{silence(ledger.folder)}: nothing says which ledger was published"
    elif changed:
        yield f"not committed: {', '.join(changed[:6])}{f' and {len(changed) - 6} more' if len(changed) > 6 else ''}"
    yield from dropped(ledger)
    yield from measured_otherwise(ledger)
    yield from declared_otherwise(ledger)
    yield from other_environment(ledger)


def counts(judged: list[Judged]) -> Counter[str]:
    """How many numbers have each verdict."""
    return Counter(one.verdict for one in judged)
