"""Numbers quoted in prose: `<!-- number FILE:SELECTOR -->13.9<!-- /number -->` in a Markdown file of the suite.

What stands between the marks must be the number's value, rounded to the digits that are shown: the value that lies here, or the one of the
published results, those of the present commit, where this machine's own run does not repeat it (another processor rounds differently). The
method and NFE that the words around it name must be its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache

from backtrail.audit.findings import BROKEN, PUBLISHED, UNBACKED, Finding
from backtrail.audit.prose import Block, blocks, misplaced, names_of, texts
from backtrail.audit.published import numbers_at
from backtrail.audit.runs import open_run
from backtrail.errors import UserError
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, find


@dataclass(frozen=True)
class Quotation(Number):
    """A number that stands in prose: it rests on what it quotes, and on nothing else that stands in the same file."""

    @property
    def subject(self) -> str:
        """What a finding about this quotation alone is about."""
        return f"{self.name}={self.text}"

    def closure(self, ledger: Ledger) -> frozenset[str]:
        return frozenset({self.subject}).union(*(ledger.closure(source) for source in self.sources))


def marked(ledger: Ledger) -> Iterator[tuple[Quotation, Block, int]]:
    """Every quoted number in the Markdown files of the suite, resting on the number that it quotes, and its block and place in it."""
    for file, text in texts(ledger):
        for block in blocks(text):
            for place, target, shown in block.quotes:
                yield Quotation(file, (("value", target),), "quoted", shown, (target.partition(":")[0],)), block, place


def quoted_numbers(ledger: Ledger) -> Iterator[Quotation]:
    """The quoted numbers alone."""
    for quotation, _, _ in marked(ledger):
        yield quotation


def wrong_quotes(ledger: Ledger) -> Iterator[Finding]:
    """Quoted numbers that are not what they quote, or not what the words around them say, each a finding of its own; those that are so in
    the published results alone are told."""
    names, in_head = names_of(ledger), cache(lambda file: published(ledger, file))
    for quotation, block, place in marked(ledger):
        file, text, target = quotation.file, quotation.text, dict(quotation.row)["value"]
        link = f"{target} -> {file}"
        try:
            (number,) = find(ledger, target)
        except (UserError, ValueError) as error:
            yield Finding(UNBACKED, quotation.subject, link, f"{file} quotes {target}, which is not there: {error}")
            continue
        if wrong := misplaced(names, block, place, dict(number.row)):
            message = f"{file}: {text}, quoted from {number.name}, {wrong}: '{block.text[:100]}'"
            yield Finding(BROKEN, quotation.subject, link, message)
            continue
        if same_rounded(text, number.text):
            continue
        other = {of.name: of.text for of in in_head(number.file)}.get(number.name, "")
        if other and same_rounded(text, other):
            message = f"{file} says {text}, as published; {number.name} is {number.text} in this run{_apart(other, number.text)}"
            yield Finding(PUBLISHED, quotation.subject, link, message)
        else:
            yield Finding(BROKEN, quotation.subject, link, f"{file} says {text}; {number.name} is {number.text}")


def published(ledger: Ledger, file: str) -> list[Number]:
    """The numbers of a file as the present commit has it; none where there is no such commit or its own lock names other bytes."""
    try:
        return numbers_at(open_run("HEAD", ledger.folder), ledger, file)
    except UserError:
        return []


def _apart(published: str, here: str) -> str:
    """By how much a value of this run differs from the published one, as words; nothing where either is no number, or 0."""
    try:
        return f" ({float(here) / float(published) - 1:+.2%})"
    except (ValueError, ZeroDivisionError):
        return ""


def same_rounded(shown: str, value: str) -> bool:
    """Whether `shown` is `value` to the last digit shown."""
    try:
        quoted, exact = Decimal(shown.replace(",", "")), Decimal(value)
        return quoted == exact.quantize(quoted)
    except InvalidOperation:
        return shown == value
