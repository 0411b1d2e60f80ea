"""Numbers quoted in prose: `<!-- number FILE:SELECTOR -->13.9<!-- /number -->` in a Markdown file of the suite.

What stands between the marks must be the number's value, rounded to the digits that are shown, and the method and NFE that the words around
it name must be its own.
"""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from backtrail.audit.findings import BROKEN, UNBACKED, Finding
from backtrail.audit.prose import Block, blocks, misplaced, names_of, texts
from backtrail.errors import UserError
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, find


def marked(ledger: Ledger) -> Iterator[tuple[str, Block, tuple[int, str, str]]]:
    """(file, block, (place in it, target, text)) of every quoted number in the Markdown files of the suite."""
    for file, text in texts(ledger):
        for block in blocks(text):
            for quote in block.quotes:
                yield file, block, quote


def quoted_numbers(ledger: Ledger) -> Iterator[Number]:
    """The quoted numbers, each resting on the number that it quotes."""
    for file, _, (_, target, text) in marked(ledger):
        yield Number(file, (("value", target),), "quoted", text, (target.partition(":")[0],))


def wrong_quotes(ledger: Ledger) -> Iterator[Finding]:
    """Quoted numbers that are not what they quote, or not what the words around them say."""
    names = names_of(ledger)
    for file, block, (place, target, text) in marked(ledger):
        link = f"{target} -> {file}"
        try:
            (number,) = find(ledger, target)
        except (UserError, ValueError) as error:
            yield Finding(UNBACKED, file, link, f"{file} quotes {target}, which is not there: {error}")
            continue
        if not same_rounded(text, number.text):
            yield Finding(BROKEN, file, link, f"{file} says {text}; {number.name} is {number.text}")
        elif wrong := misplaced(names, block, place, dict(number.row)):
            yield Finding(BROKEN, file, link, f"{file}: {text}, quoted from {number.name}, {wrong}: '{block.text[:100]}'")


def same_rounded(shown: str, value: str) -> bool:
    """Whether `shown` is `value` to the last digit shown."""
    try:
        quoted, exact = Decimal(shown.replace(",", "")), Decimal(value)
        return quoted == exact.quantize(quoted)
    except InvalidOperation:
        return shown == value
