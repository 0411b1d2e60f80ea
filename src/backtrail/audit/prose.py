"""Results in prose: what looks like a result beside a method's name, in any Markdown file that git tracks, and stands in no mark.

A text is taken in blocks, as a reader sees it (`markdown.py`). In a block that names a method, or stands in a list, in a table or below a
heading that names one, each number that is no setting (`NFE 4`, `3 seeds`, `12 min`) has to be quoted (`quotes.py`), and each verdict has
to be the one that the table of claims has for the claim beside it, or in the list below it. A text that is quoted whole is left to
`quotes.py` too. What was measured by other means than the suite's stages stands between `<!-- measured: COMMAND -->` and
`<!-- /measured -->`, and is counted and told. Numbers below ten without a point, and numbers in words, are not looked for.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from backtrail.audit.by_hand import lies_in, places_by_hand
from backtrail.audit.findings import BROKEN, UNBACKED, Finding
from backtrail.audit.markdown import MEASURED, Block, blocks
from backtrail.audit.published import CLAIMS
from backtrail.errors import UserError
from backtrail.layout import CURVES, METRICS, PARAMS_FILE, STUDENTS
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import owner_of, read_rows
from backtrail.ledger.repository import tracked
from backtrail.parameters.base import read

SHOWN = 6
MARKDOWN = (".md", ".markdown", ".mdown", ".mkd", ".mkdn", ".mdx", ".rmd", ".qmd")
MADE = ("reports/", "results/")  # what a stage makes there is rendered again; elsewhere no stage writes texts
UNDECIDED = "undecided at this size"
REAL = "real images"  # whose numbers (the floor) are no method's
OF_REAL = re.compile(r"\b(?:real|floors?)\b", re.IGNORECASE)
# With letters that pass for digits (`l2.5`, `1O.3`), without a digit before the point, and as a factor (`2.5x`).
NUMBER = re.compile(
    r"(?<![\w.,])(?<!\w[-.])(?:\d(?:[\d,.']*\d)?(?:e[-+]?\d+)?|(?=[OIl.,]*\d)[\dOIl]+[.,][\dOIl]+)(?!(?!x\b)\w)|(?<![\w.,/*)])\.\d+(?!\w)",
    re.IGNORECASE,
)
MEASURES = (
    r"(?<![^\W_])(?:FD|FID|KID|IS|LPIPS|CLIP|R?MSE|W2|recall|precision|density|coverage|accuracy|distance|mismatch|loss|score)(?![^\W_])"
)
BETTER = r"(?!\s*(?:as|better|worse|lower|higher|smaller|larger|fewer|less|more)\b)"
UNIT = re.compile(
    rf"\s*(?:s|ms|min|h|hours?|minutes?|seconds?|days?|weeks?|[kMGT]i?B|F|(?:times|x)\b{BETTER}|x\s*\d+|% (?:confidence|CI))\b"
)
COUNTED = re.compile(
    r"(?: of \d+)?\s*(?:bytes?|GPUs?|CPUs?|cores?|images?|samples?|steps?|updates?|epochs?|iterations?|seeds?|nodes?|times?|stages?|files?|"
    rf"lines?|threads?|process(?:es)?|parameters?|claims?|evaluations?|channels?|layers?|forwards?|passes|pixels?|NFEs?)\b{BETTER}"
)
SETTING = re.compile(
    r"(?:=|\b\d+ ?x|\bEqs?\.|\bEquations?|\bFigs?\.|\bFigures?|\bTables?|\bSections?|\bpp?\.|#|\barXiv:?|\bversion"
    r"|\b(?:Python|(?:Py)?torch|CUDA|cuDNN|DVC|Snakemake)(?: [\d.]+ (?:to|and))?"
    r"|\b(?:learning rate|lr|batch(?: size)?|rank|sigma)(?: of|:)?)\s*[\"']?$",
    re.IGNORECASE,
)
WHOLE_SETTING = re.compile(
    r"(?:\bNFEs?|\bseeds?|(?:\bNFEs?|\bseeds?|\bEqs?\.|\bTables?|\bpp?\.) [\d, ]+(?:to|and|,|-)?)\s*[\"'<>\u2264\u2265~]*\s*$",
    re.IGNORECASE,
)
THOUSANDS = re.compile(r" \d{3} ")  # behind `10`, in `10 000 updates`
HYPHENED = re.compile(rf"({MEASURES})-(?=[\d.])", re.IGNORECASE)  # `FD-59.8` is no name
# What is measured is no setting, whatever sign or unit stands beside it: `FD = 5.9`, `FD 5.9 s`, `SFD-v = 5.9` (names are underlined).
RESULT = re.compile(rf"(?:{MEASURES}[^=.;]{{0,40}}=|{MEASURES}(?:\s*(?::|of|is|was))?(?: about)?|__+\s*=)\s*[\"']?$", re.IGNORECASE)
# Years, dates, citations and footnotes, which are read as one word.
REFERENCE = re.compile(r"(?:19|20)\d\d-\d\d-\d\d\b|\[\^?\d{1,3}\]|\b(?:et al\.,?|[A-Z]\w+ and [A-Z]\w+,?) \(?(?:19|20)\d\d\b")
NFE = re.compile(r"\bNFEs?\s*(?:=|:|of)?\s*(\d+)\b(?!\s*(?:to|-)\s*\d)|(?<![\d.-])\b(\d+)\s+NFEs?\b", re.IGNORECASE)
VERDICT = re.compile(r"(?<![\w-])(not held|held|undecided at this size|not run)(?=\s*(?:[:|)]|$))", re.IGNORECASE)
WORD = re.compile(r"(?<![\w-])(not held|held|undecided|not run)(?![\w-])", re.IGNORECASE)  # the same beside a claim, however it is set
# What stands above a list, or as a heading above claims, and gives them their verdict: `held:`, `## Not held (three seeds)`.
LEAD = re.compile(
    r"[\W_]*(not held|held|undecided|not run)(?![\w-])(?: (?:\(|at|with|by|in|for|after|here|so far|yet)\b.*| \(.*)?:?\W*", re.IGNORECASE
)
# How the field spells parts of names otherwise than params.yaml does.
SPELT = {
    "dpmpp": r"dpmpp|dpm[\s-]*(?:solver[\s-]*)?\+\+",
    "3m": r"\(?3m\)?",
    "ipndm": r"ipndm(?:[\s-]*4)?",
    "trajectory": r"trajectory[\s-]*distillation|algorithm[\s-]*1",
}
BRACKET = re.compile(r"\s*[(\[]")
LINKED = re.compile(r"\s*(?:,|and|or|&|/|, and)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Names:
    """The names of a suite's methods and solvers, as texts spell them."""

    keys: tuple[str, ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """One group for each name, longer ones first: SFD-v is not SFD."""
        spelt = (r"[\s,-]*".join(f"(?:{SPELT.get(part, re.escape(part))})" for part in key.split("-")) for key in self.keys)
        return re.compile("|".join(rf"(?<![^\W_])(?<!-)({of})(?![^\W_])(?!-\w)" for of in spelt) or "(?!)", re.IGNORECASE)

    def _key(self, found: re.Match[str]) -> str:
        return self.keys[(found.lastindex or 1) - 1]

    def beside(self, text: str, place: int) -> set[str]:
        """The names that a place in a text belongs to: last before it, and in brackets right behind it; or else first after it.

        Several where they are told in one breath: `SFD-v and SFD have 19.9 and 9.9`.
        """
        found = list(self.pattern.finditer(text))
        before = [name for name in found if name.end() <= place]
        behind = [name for name in found if name.start() >= place and BRACKET.fullmatch(text[place : name.start()])]
        last = max(0, len(before) - 1)
        while last and LINKED.fullmatch(text[before[last - 1].end() : before[last].start()]):
            last -= 1
        return {self._key(name) for name in before[last:] + behind or found[:1]}


def names_of(ledger: Ledger) -> Names:
    """What the suite's results and parameters call methods and solvers."""
    samplers = (ledger.params.get("teacher_samples") or {}).get("samplers") or {}
    students = ledger.params.get("students") or {}
    owners = {owner_of(path) for path in ledger.makers if path.startswith((f"{METRICS}/", f"{STUDENTS}/", f"{CURVES}/"))}
    keys = {*map(str, samplers), *map(str, students), *(name for name in owners if name and name != "teacher")}
    return Names(tuple(sorted(keys, key=lambda key: (-len(key), key))))


def texts(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(path, text) of the Markdown files of a suite that git tracks or that lie at its top, without those that a stage made."""
    folder = ledger.folder
    for name in _markdown(folder):
        if not (name.startswith(MADE) and name in ledger.makers) and suite_of(folder, name) is None:
            path = folder / name
            if path.is_file():
                yield name, decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """A text as an editor shows it: in UTF-16 where it says so, or else in UTF-8."""
    return content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig", errors="replace")


def _markdown(folder: Path) -> list[str]:
    names = tracked(folder)
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".venv" not in path.parts]
    names = [*names, *(path.name for path in folder.iterdir())]
    return sorted({name for name in names if PurePosixPath(name).suffix.lower() in MARKDOWN})


def suite_of(folder: Path, name: str) -> str | None:
    """The folder of the other suite within this one whose text it is, which that one's own audit reads; None of a text of this suite."""
    above = [str(place) for place in PurePosixPath(name).parents if str(place) != "."]
    return next((place for place in above if is_suite(folder / place)), None)


def is_suite(folder: Path) -> bool:
    """Whether a folder within a suite is another one, whose texts its own audit reads: a params.yaml without a suite's name makes none."""
    try:
        return "suite" in read(folder / PARAMS_FILE)
    except UserError:
        return False


def unquoted(names: Names, block: Block) -> list[str]:
    """What looks like a result in a block that names a method, or that stands below what names one, and is in no mark."""
    pattern = names.pattern
    if not pattern.search(" ".join((*block.above, *block.heads, block.text))):
        return []
    text = pattern.sub(lambda name: "_" * len(name[0]), block.text)
    text = REFERENCE.sub(lambda found: "_" * len(found[0]), text)
    text = HYPHENED.sub(r"\1 ", text)
    return [block.text[max(0, of.start() - 40) : of.end()].strip() for of in NUMBER.finditer(text) if not _is_setting(text, of)]


def _is_setting(text: str, number: re.Match[str]) -> bool:
    """Whether a number is small, has a unit, or is what a setting is set to; what only counts is whole."""
    start, end = number.span()
    before = text[max(0, start - 60) : start]
    counts = number[0].replace(",", "").isdecimal()
    if counts and len(number[0]) == 1:
        return True
    if (UNIT.match(text, end) or SETTING.search(before)) and not RESULT.search(before):
        return True
    return counts and bool(COUNTED.match(text, end) or THOUSANDS.match(text, end) or WHOLE_SETTING.search(before))


def unmarked(ledger: Ledger) -> Iterator[Finding]:
    """What looks like a result and carries no mark, and verdicts that are not the table's."""
    names, claims, by_hand = names_of(ledger), read_rows(ledger.folder / CLAIMS), places_by_hand(ledger)
    for file, text in texts(ledger):
        found: list[str] = []
        for block in blocks(text):
            found += [] if lies_in(file, by_hand) else unquoted(names, block)
            yield from _verdicts(file, names, block, claims)
        if found:
            shown = "; ".join(f"'... {one}'" for one in found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            message = f"{file}: {len(found)} numbers beside a method's name are quoted from nothing: {shown}"
            # The quoted numbers of the same file are not wrong for it.
            yield Finding(UNBACKED, f"{file}:unmarked", f"? -> {file}", message, "mark them: <!-- number FILE:SELECTOR -->")


def _verdicts(file: str, names: Names, block: Block, claims: list[dict[str, str]]) -> Iterator[Finding]:
    if not names.pattern.search(block.text):
        return
    text = _plain(block.text)
    rows = [row for row in claims if row.get("text") and _plain(row["text"]) in text]
    rows = [row for row in rows if _plain(row.get("quantity", "")) in text] or rows
    lead = next((found[1] for above in reversed(block.above) if (found := LEAD.fullmatch(above))), "")
    words = (WORD if rows else VERDICT).findall(block.text) or [lead]
    said = {UNDECIDED if word.startswith("undecided") else word for word in map(str.lower, words) if word}
    told = block.text[:100]
    if not said:
        return
    if not rows and said != {"not run"}:
        yield Finding(UNBACKED, f"{file}:verdicts", f"? -> {file}", f"{file} gives a verdict on no claim of {CLAIMS}: '{told}'")
    elif rows and said != {row.get("verdict") for row in rows}:
        right = ", ".join(sorted({str(row.get("verdict")) for row in rows}))
        message = f"{file} says {', '.join(sorted(said))} of '{rows[0]['text']}'; {CLAIMS} says {right}"
        yield Finding(BROKEN, f"{file}:verdicts", f"{CLAIMS} -> {file}", message)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().lower()


def measured_otherwise(ledger: Ledger) -> Iterator[str]:
    """A line for each part of a text that is said to be measured by other means than the suite's stages, and for each text that came with
    files got by hand."""
    names, by_hand = names_of(ledger), places_by_hand(ledger)
    if others := sorted({place for name in _markdown(ledger.folder) if (place := suite_of(ledger.folder, name))}):
        yield f"texts below {', '.join(others)} are of other suites, for an audit there to read"
    for file, text in texts(ledger):
        if lies_in(file, by_hand) and (found := [one for block in blocks(text) for one in unquoted(names, block)]):
            yield f"{file}: {len(found):,} numbers beside a method's name came with files got by hand: nothing here checks them"
        for command, part in MEASURED.findall(text):
            what = f"{len(NUMBER.findall(part)):,} numbers are said to be measured otherwise than by the suite's stages"
            yield f"{file}: {what} ({command}): nothing here checks them"


def misplaced(names: Names, block: Block, place: int, row: dict[str, Any]) -> str:
    """What contradicts a quoted number's row in the words around it; nothing if method and NFE agree or are not named.

    The words of its own block come first, then the head of its column, then what the block stands below, the nearest first.
    """
    around = [(block.text, place), *((text, len(text)) for text in (block.head_at(place), *reversed(block.above)))]
    beside = next(filter(None, (names.beside(text, at) for text, at in around)), set())
    if row.get("method") == REAL:
        told = not beside or any(OF_REAL.search(text) for text, _ in around)
        return "" if told else f"stands beside {' and '.join(sorted(beside))}, and is {REAL}'"
    if beside and row.get("method") not in (None, *beside):
        return f"stands beside {' and '.join(sorted(beside))}, and is {row['method']}'s"
    in_row = {block.under("NFE")} - {""}
    said = in_row or next(filter(None, (_nfe(text, at) for text, at in around)), set())
    if said and row.get("nfe") not in (None, *said):
        return f"stands beside NFE {' and '.join(sorted(said))}, and is of NFE {row['nfe']}"
    return ""


def _nfe(text: str, place: int) -> set[str]:
    """The number of evaluations that is told last before a place in a text, and in brackets right behind it; or else first after it."""
    found = list(NFE.finditer(text))
    before = [of for of in found if of.end() <= place][-1:]
    behind = [of for of in found if of.start() >= place and BRACKET.match(text, place) and ")" not in text[place : of.start()]][:1]
    return {of[1] or of[2] for of in before + behind or found[:1]}
