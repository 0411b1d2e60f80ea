"""Numbers quoted in prose: `<!-- number FILE:SELECTOR -->13.9<!-- /number -->` in a Markdown file of the suite.

What stands between the marks must be the number's value, rounded to the digits that are shown.
"""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from backtrail.audit.findings import BROKEN, UNBACKED, Finding
from backtrail.errors import UserError
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, find

MARK = re.compile(r"<!-- number (\S+) -->(.*?)<!-- /number -->", re.DOTALL)


def marked(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """(file, target, text) of every quoted number in the Markdown files of the suite's folder."""
    for path in sorted(ledger.folder.glob("*.md")):
        for target, text in MARK.findall(path.read_text(encoding="utf-8", errors="replace")):
            yield path.name, target, text.strip()


def quoted_numbers(ledger: Ledger) -> Iterator[Number]:
    """The quoted numbers, each resting on the number that it quotes."""
    for file, target, text in marked(ledger):
        yield Number(file, (("value", target),), "quoted", text, (target.partition(":")[0],))


def wrong_quotes(ledger: Ledger) -> Iterator[Finding]:
    """Quoted numbers that are not what they quote."""
    for file, target, text in marked(ledger):
        link = f"{target} -> {file}"
        try:
            (number,) = find(ledger, target)
        except (UserError, ValueError) as error:
            yield Finding(UNBACKED, file, link, f"{file} quotes {target}, which is not there: {error}")
            continue
        if not same_rounded(text, number.text):
            yield Finding(BROKEN, file, link, f"{file} says {text}; {number.name} is {number.text}")


def same_rounded(shown: str, value: str) -> bool:
    """Whether `shown` is `value` to the last digit shown."""
    try:
        quoted, exact = Decimal(shown.replace(",", "")), Decimal(value)
        return quoted == exact.quantize(quoted)
    except InvalidOperation:
        return shown == value
