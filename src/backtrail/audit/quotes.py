"""What prose quotes: `<!-- number FILE:SELECTOR -->13.9<!-- /number -->`, and texts that are quoted whole, `<!-- quote NAME -->`.

What stands between the marks is rendered from the suite's results, a number to the digits that are shown. `backtrail quote` writes it,
the audit compares: with what is rendered from the values that lie here, or from the published ones, those of the present commit, where this
machine's own run does not repeat them (another processor rounds differently). The method and NFE that the words around a number name must
be its own.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from backtrail.audit.findings import BROKEN, PUBLISHED, UNBACKED, Finding
from backtrail.audit.markdown import MARK, WHOLE, Block, blocks, quoted_whole, substituted
from backtrail.audit.prose import MADE, REAL, misplaced, names_of, suite_of, texts
from backtrail.audit.published import numbers_at, text_at
from backtrail.audit.runs import open_run
from backtrail.errors import UserError
from backtrail.layout import METRICS, PARAMS_FILE, REFERENCE
from backtrail.ledger.confined import open_confined
from backtrail.ledger.hashes import hash_file
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, find, owner_of

RENEW = "backtrail quote"
PLAIN = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)


@dataclass(frozen=True)
class Writer:
    """Who writes the texts that are quoted whole, by name: from which files, and how. Handed in: this room does not know the report's."""

    sources: Callable[[str], tuple[str, ...]]
    write: Callable[[str, Path], str]


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


def whole(ledger: Ledger, writer: Writer) -> Iterator[Quotation]:
    """Every text that is quoted whole in the Markdown files of the suite, resting on the files that it is written from."""
    for file, text in texts(ledger):
        for name, shown in quoted_whole(text):
            try:
                sources = writer.sources(name)
            except UserError:
                sources = ()
            yield Quotation(file, (("value", name),), "quoted", shown.strip(), sources)


def quoted(ledger: Ledger, writer: Writer) -> Iterator[Quotation]:
    """Everything that is quoted."""
    for quotation, _, _ in marked(ledger):
        yield quotation
    yield from whole(ledger, writer)


def wrong_quotes(ledger: Ledger, writer: Writer) -> Iterator[Finding]:
    """Quotations that are not what they quote, or not what the words around them say, each a finding of its own; those that are so in
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
        if os.path.normpath(number.file) != number.file or ledger.maker(number.file) is None:
            yield Finding(UNBACKED, quotation.subject, link, f"{file} quotes {target}, and no stage made {number.file}")
            continue
        if wrong := misplaced(names, block, place, row_of(number)):
            message = f"{file}: {text}, quoted from {number.name}, {wrong}: '{block.text[:100]}'"
            yield Finding(BROKEN, quotation.subject, link, message)
            continue
        if text == as_shown(number.text, text):
            if lost := rounded_away(number.text, text):
                yield Finding(BROKEN, quotation.subject, link, f"{file} says {text}; {number.name} is {number.text}: {lost}")
            continue
        other = {of.name: of.text for of in in_head(number.file)}.get(number.name, "")
        if other and text == as_shown(other, text):
            message = f"{file} says {text}, as published; {number.name} is {number.text} in this run{_apart(other, number.text)}"
            yield Finding(PUBLISHED, quotation.subject, link, message)
        else:
            yield Finding(BROKEN, quotation.subject, link, f"{file} says {text}; {number.name} is {number.text}", RENEW)
    for quotation in whole(ledger, writer):
        yield from _wrong_text(ledger, writer, quotation)


def row_of(number: Number) -> dict[str, str]:
    """The row that a number stands in; with method and NFE, which name and places of a metric file say; of a reference, real images."""
    row = dict(number.row)
    if number.file.startswith(f"{METRICS}/") and (owner := owner_of(number.file)):
        source, _, rest = row["value"].partition("/nfe")
        nfe = rest.partition("/")[0]
        row |= {"method": source if owner == "teacher" else owner} | ({"nfe": nfe} if nfe.isdecimal() else {})
    return row | {"method": REAL} if number.file.startswith(f"{REFERENCE}/") else row


def _wrong_text(ledger: Ledger, writer: Writer, quotation: Quotation) -> Iterator[Finding]:
    file, name = quotation.file, dict(quotation.row)["value"]
    link = f"{', '.join(quotation.sources) or '?'} -> {file}"
    try:
        now = writer.write(name, ledger.folder)
    except (UserError, ValueError) as error:
        yield Finding(UNBACKED, quotation.subject, link, f"{file} quotes the text {name}, which cannot be written: {error}")
        return
    for wrong in filter(None, (_wrong_elsewhere(ledger, source) for source in quotation.sources)):
        yield Finding(UNBACKED, quotation.subject, link, f"{file} quotes the text {name}, and {wrong}")
    if quotation.text == now:
        return
    try:
        as_published = text_at(open_run("HEAD", ledger.folder), quotation.sources, partial(writer.write, name))
    except (UserError, ValueError):
        as_published = ""
    if quotation.text == as_published:
        yield Finding(PUBLISHED, quotation.subject, link, f"{file} quotes the text {name} as published; this run's is another")
    else:
        was, is_now = first_difference(quotation.text, now)
        message = f"{file}: the text {name} is not what {', '.join(quotation.sources)} says: found '{was}', expected '{is_now}'"
        yield Finding(BROKEN, quotation.subject, link, message, RENEW)


def _wrong_elsewhere(ledger: Ledger, source: str) -> str:
    """What is wrong with a source that another suite within this one made, by its own ledger; empty if nothing, or if it is ours."""
    if (place := suite_of(ledger.folder, source)) is None:
        ours = source == PARAMS_FILE or source.startswith(MADE)  # a file there that no stage made is a finding of its own
        return "" if ours else f"{source} lies in no suite: no stage made it"
    path, cure = PurePosixPath(source).relative_to(place).as_posix(), f"`(cd {place}; backtrail audit)` says more"
    try:
        theirs = open_confined(ledger.folder / place)
        stage = theirs.maker(path)
    except UserError as error:
        return f"{error}; {cure}"
    if stage is None or path not in stage.outs:
        return f"no stage of {place} made {path}; {cure}"
    found, said = hash_file(ledger.folder / source), (theirs.records[stage.name] or {}).get("outputs")
    right = found.md5 == stage.outs[path].md5 and isinstance(said, dict) and said.get(path) == found.sha256
    return "" if right else f"{source} is not what {place}'s own lock and records have; {cure}"


def first_difference(was: str, now: str) -> tuple[str, str]:
    """The first lines in which two texts differ, shortened."""
    pairs = zip_longest(was.splitlines(), now.splitlines(), fillvalue="")
    return next(((a[:100], b[:100]) for a, b in pairs if a != b), ("", ""))


def renewed(ledger: Ledger, text: str, writer: Writer) -> tuple[str, list[str], list[str]]:
    """A Markdown text with everything that it quotes rendered anew; what changed, and what cannot be found, a line for each."""
    changes: list[str] = []
    faults: list[str] = []

    def write(mark: re.Match[str]) -> str:
        try:
            now = writer.write(mark[1], ledger.folder)
        except (UserError, ValueError) as error:
            faults.append(f"the text {mark[1]}: {error}")
            return mark[0]
        if (was := mark[2].strip().replace("\r\n", "\n")) == now:
            return mark[0]
        changes.append("the text {}: '{}' -> '{}'".format(mark[1], *first_difference(was, now)))
        ending = "\r\n" if "\r\n" in text else "\n"
        return ending.join([f"<!-- quote {mark[1]} -->", *now.splitlines(), "<!-- /quote -->"])

    def number(mark: re.Match[str]) -> str:
        try:
            (found,) = find(ledger, mark[1])
        except (UserError, ValueError) as error:
            faults.append(f"{mark[1]}: {error}")
            return mark[0]
        if (shown := mark[2].strip()) == (now := as_shown(found.text, shown)):
            return mark[0]
        changes.append(f"{found.name}: {shown or 'nothing'} -> {now}")
        return f"<!-- number {mark[1]} -->{now}<!-- /number -->"

    return substituted(MARK, number, substituted(WHOLE, write, text)), changes, faults


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


def rounded_away(value: str, shown: str) -> str:
    """What is wrong where a value is shown to so few digits that another is read: more than a tenth from it; empty if nothing."""
    try:
        exact, read = Decimal(value), Decimal(shown.replace(",", ""))
        return "so few digits show another value" if abs(read - exact) > abs(exact) / 10 else ""
    except InvalidOperation:
        return ""


def as_shown(value: str, shown: str) -> str:
    """A value as a text shows it that has `shown`: to as many digits behind the point, with commas where it has some.

    A word stands as it is, and so does a value in the place of what is no number in plain digits (`5e2`, `4,7,1`, nothing yet).
    """
    try:
        exact = Decimal(value)
        if not exact.is_finite() or not PLAIN.fullmatch(shown):
            return value
        rounded = exact.quantize(Decimal(shown.replace(",", "")))
    except InvalidOperation:
        return value
    return f"{rounded:,f}" if "," in shown else f"{rounded:f}"
