"""Results in prose: what looks like a result beside a method's name, in any Markdown file that git tracks, and stands in no mark.

A text is taken in blocks, as a reader sees it: a paragraph, an item of a list or a row of a table, wherever its lines are broken. In a
block that names a method, each number that is no setting (`NFE 4`, `3 seeds`, `12 min`) has to be quoted (`quotes.py`), and each verdict
has to be the one that the table of claims has for the claim beside it, or in the list below it. A text that is quoted whole is left to
`quotes.py` too. What was measured by other means than the suite's stages stands between `<!-- measured: COMMAND -->` and
`<!-- /measured -->`, and is counted and told. Numbers below ten without a point, and numbers in words, are not looked for.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from backtrail.audit.by_hand import lies_in, places_by_hand
from backtrail.audit.findings import BROKEN, UNBACKED, Finding
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
MARK = re.compile(r"<!-- number (\S+) -->(.{0,200}?)<!-- /number -->", re.DOTALL)
MEASURED = re.compile(r"<!-- measured: ([^\n>]{1,200}) -->((?:(?!<!-- measured:).)*?)<!-- /measured -->", re.DOTALL)
WHOLE = re.compile(r"<!-- quote ([\w./-]{1,200}) -->((?:(?!<!-- quote ).)*?)<!-- /quote -->", re.DOTALL)
QUOTED = re.compile(r"\0(\d+)\0")  # what stands for a mark while blocks are read
COMMENT = re.compile(r"<!--(?:-?>|(.*?)--!?>)", re.DOTALL)  # `<!-->` is a whole one to a browser
BETWEEN = re.compile(r"</?(?:t[dhr]|p|div|li|br|hr|h\d|table|d[dtl]|[uo]l|pre|summary|details)\b[^<>]{0,500}>", re.IGNORECASE)
ATTRIBUTE = r"""\s+[a-zA-Z_:][\w.:-]{0,50}(?:\s*=\s*(?:"[^"<>]{0,500}"|'[^'<>]{0,500}'|[^\s"'=<>`]{1,500}))?"""
TAG = re.compile(rf"</?[a-zA-Z][\w-]{{0,50}}(?:{ATTRIBUTE})*\s*/?>")  # `<around 5.9>` is none, and is shown
# Style or a tag between a letter and a digit: `FD<kbd>5.9</kbd>` is read as two words.
GLUE = r"(?:<[^<>]{0,500}>|[*~`}\u200b-\u200d\u2060\ufeff])+"
GLUED = re.compile(rf"(?<=[^\W\d]){GLUE}(?=[\d.])|(?<=\d){GLUE}(?=[^\W\de])")
# Digits that touch a mark, before and after it, make another number of what it quotes.
BEFORE, AFTER = re.compile(r"\d[.,']?$|(?<!\w)\.$"), re.compile(r"[.,']?\d|e[-+]?\d", re.IGNORECASE)
# Emphasis, LaTeX's commands and braces, backslashes before signs, and the addresses of links.
STYLE = re.compile(r"[*~`{}]+|\\[a-zA-Z]+(?=\{)|\\(?=[^\w\s])|\[([^\][]{0,500})\](?:\([^)\s]{0,2000}\)|\[[^\][]{0,100}\])")
INVISIBLE = ("Cf", "Mn", "Me")
# Cyrillic and Greek letters that look like Latin ones, and signs that look like a decimal point.
ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0405\u0406\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456"
    "\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03bf\u00b7\u066b\u2219\u22c5\u2022\u2024\u3002",
    "ABEKMHOPCTXSIaeopcyxsiABEHIKMNOPTXo.......",
)
ADDRESS = re.compile(r"https?://[^\s|]+")
# A blank line, an item of a list, a row of a table, a heading or a fence begins a block.
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d[.)])\s)|\n(?=\s*\|)|(?<=\|)\n|\n(?=#)|```[^\n]{0,100}\n")
# With letters that pass for digits (`l2.5`, `1O.3`), and without a digit before the point.
NUMBER = re.compile(
    r"(?<![\w.,])(?<!\w[-.])(?:\d(?:[\d,.']*\d)?(?:e[-+]?\d+)?|(?=[OIl.,]*\d)[\dOIl]+[.,][\dOIl]+)(?!\w)|(?<![\w.,/*)])\.\d+(?!\w)",
    re.IGNORECASE,
)
UNIT = re.compile(r"\s*(?:s|ms|min|h|hours?|minutes?|seconds?|days?|weeks?|[kMGT]i?B|times|F|x)\b")
COUNTED = re.compile(
    r"\s*(?:bytes?|GPUs?|CPUs?|cores?|images?|samples?|steps?|updates?|seeds?|nodes?|times?|stages?|files?|lines?|threads?|process(?:es)?|"
    r"parameters?|claims?|evaluations?|channels?|layers?|forwards?|passes|pixels?)\b"
)
SETTING = re.compile(
    r"(?:=|\bEqs?\.|\bEquations?|\bFigs?\.|\bFigures?|\bTables?|\bSections?|\barXiv:?|\bPython|\btorch|\bversion)\s*[\"']?$",
    re.IGNORECASE,
)
WHOLE_SETTING = re.compile(r"(?:\bNFE|\bseeds?|(?:\bNFE|\bseeds?|\bEqs?\.|\bTables?) [\d, ]+(?:to|and|,)?)\s*[\"']?$", re.IGNORECASE)
MEASURE = re.compile(
    r"\b(?:FD|FID|KID|IS|LPIPS|CLIP|R?MSE|W2|recall|precision|density|coverage|accuracy|distance|mismatch|loss|score)\b[^=.;]{0,40}=\s*[\"']?$",
    re.IGNORECASE,
)
NFE = re.compile(r"\bNFE\s*=?\s*(\d+)\b(?!\s*(?:to|-|\u2013)\s*\d)", re.IGNORECASE)
VERDICT = re.compile(r"(?<![\w-])(not held|held|undecided at this size|not run)(?=\s*(?:[:|)]|$))", re.IGNORECASE)
# What stands above a list, or as a heading above claims, and gives them their verdict: `held:`, `## Not held (three seeds)`.
LEAD = re.compile(
    r"[\W_]*(not held|held|undecided|not run)(?![\w-])(?: (?:\(|at|with|by|in|for|after|here|so far|yet)\b.*| \(.*)?:?\W*", re.IGNORECASE
)
ITEM = re.compile(r"\s*?( *)(?:[-*+]|\d[.)]|\|)(?: |$|(?<=\|))")
# How the field spells parts of names otherwise than params.yaml does.
SPELT = {"dpmpp": r"dpmpp|dpm[\s-]*solver[\s-]*\+\+", "3m": r"\(?3m\)?", "trajectory": r"trajectory[\s-]*distillation|algorithm[\s-]*1"}


@dataclass(frozen=True)
class Names:
    """The names of a suite's methods and solvers, as texts spell them."""

    keys: tuple[str, ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """One group for each name, longer ones first: SFD-v is not SFD."""
        spelt = (r"[\s,-]*".join(f"(?:{SPELT.get(part, re.escape(part))})" for part in key.split("-")) for key in self.keys)
        return re.compile("|".join(rf"(?<![\w-])({of})(?!\w)(?!-\w)" for of in spelt) or "(?!)", re.IGNORECASE)

    def before(self, text: str, place: int) -> str | None:
        """The name that stands last before a place in a text, or else first after it."""
        found = list(self.pattern.finditer(text))
        chosen = [name for name in found if name.end() <= place][-1:] or found[:1]
        return self.keys[(chosen[0].lastindex or 1) - 1] if chosen else None


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
                yield name, path.read_text(encoding="utf-8", errors="replace")


def _markdown(folder: Path) -> list[str]:
    names = tracked(folder)
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.m*") if ".venv" not in path.parts]
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


@dataclass(frozen=True)
class Block:
    """One block of a text as it is read, marks taken out of it: (place in it, target, what is quoted) of each.

    indent: spaces before an item of a list or a row of a table; None of a paragraph or a heading.
    """

    text: str
    quotes: tuple[tuple[int, str, str], ...]
    indent: int | None = None


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text; what is quoted whole or was measured by other means is left out."""
    marks: list[tuple[str, str]] = []

    def taken(mark: re.Match[str]) -> str:
        marks.append((mark[1], mark[2].strip()))
        return f"\0{len(marks) - 1}\0"

    text = WHOLE.sub("\n\n", text.replace("\0", " ").replace("\r\n", "\n"))
    text = GLUED.sub(" ", MEASURED.sub("\n\n", MARK.sub(taken, text)))
    # A comment or a tag may stand in the midst of a number; what a comment says is read too, by itself.
    text = "\n\n".join([TAG.sub("", BETWEEN.sub(" ", COMMENT.sub("", text))), *COMMENT.findall(text)])
    text = unicodedata.normalize("NFKC", html.unescape(text).translate(ALIKE))
    text = "".join(c for c in text if unicodedata.category(c) not in INVISIBLE)
    for part in BLOCK.split(text):
        line = " ".join(ADDRESS.sub(" ", STYLE.sub(lambda found: found[1] or "", part)).split())
        pieces = QUOTED.split(line)
        read, quotes = pieces[0], []
        for index, after in zip(pieces[1::2], pieces[2::2], strict=True):
            target, shown = marks[int(index)]
            quotes.append((len(read), target, shown))
            read += (shown if BEFORE.search(read) or AFTER.match(after) else "  ") + after
        yield Block(read, tuple(quotes), len(item[1]) if (item := ITEM.match(part)) else None)


def unquoted(names: Names, block: Block, above: str = "") -> list[str]:
    """What looks like a result in a block that names a method, or whose heading or table's head (`above`) does, and is in no mark."""
    pattern = names.pattern
    if not pattern.search(f"{above} {block.text}"):
        return []
    text = pattern.sub(lambda name: "_" * len(name[0]), block.text)
    found = []
    for number in NUMBER.finditer(text):
        if not _is_setting(text, number):
            found.append(block.text[max(0, number.start() - 40) : number.end()].strip())
    return found


def _is_setting(text: str, number: re.Match[str]) -> bool:
    """Whether a number is small, has a unit, or is what a setting is set to; what only counts is whole."""
    start, end = number.span()
    before = text[max(0, start - 60) : start]
    counts = number[0].replace(",", "").isdecimal()
    if (counts and len(number[0]) == 1) or UNIT.match(text, end) or (SETTING.search(before) and not MEASURE.search(before)):
        return True
    return counts and bool(COUNTED.match(text, end) or WHOLE_SETTING.search(before))


def unmarked(ledger: Ledger) -> Iterator[Finding]:
    """What looks like a result and carries no mark, and verdicts that are not the table's."""
    names, claims, by_hand = names_of(ledger), read_rows(ledger.folder / CLAIMS), places_by_hand(ledger)
    for file, text in texts(ledger):
        found: list[str] = []
        heading = head = ""
        for block, lead in with_leads(blocks(text)):
            heading = block.text if block.text.startswith("#") else heading
            head = (head or block.text) if block.text.startswith("|") else ""
            found += [] if lies_in(file, by_hand) else unquoted(names, block, f"{heading} {head}")
            yield from _verdicts(file, names, block, lead, claims)
        if found:
            shown = "; ".join(f"'... {one}'" for one in found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            message = f"{file}: {len(found)} numbers beside a method's name are quoted from nothing: {shown}"
            # The quoted numbers of the same file are not wrong for it.
            yield Finding(UNBACKED, f"{file}:unmarked", f"? -> {file}", message, "mark them: <!-- number FILE:SELECTOR -->")


def with_leads(of: Iterable[Block]) -> Iterator[tuple[Block, str]]:
    """Each block with the verdict that a lead above gives it: above its list, or in a heading above it; empty where there is none."""
    heading, verdict, indent = "", "", 0
    for block in of:
        if block.text.startswith("#"):
            heading, verdict = (lead[1] if (lead := LEAD.fullmatch(block.text)) else ""), ""
            yield block, ""
            continue
        if block.indent is None or block.indent <= indent:
            verdict = ""
        if lead := LEAD.fullmatch(block.text):
            verdict, indent = lead[1], -1 if block.indent is None else block.indent
        yield block, verdict or heading


def _verdicts(file: str, names: Names, block: Block, lead: str, claims: list[dict[str, str]]) -> Iterator[Finding]:
    said = {
        UNDECIDED if (word := found.lower()).startswith("undecided") else word for found in VERDICT.findall(block.text) or [lead] if found
    }
    if not said or not names.pattern.search(block.text):
        return
    text = _plain(block.text)
    rows = [row for row in claims if row.get("text") and _plain(row["text"]) in text]
    rows = [row for row in rows if _plain(row.get("quantity", "")) in text] or rows
    told = block.text[:100]
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
    """What contradicts a quoted number's row in the words around it; nothing if method and NFE agree or are not named."""
    name = names.before(block.text, place)
    if name is not None and row.get("method") not in (None, name):
        return f"stands beside {name}, and is {row['method']}'s"
    said = [found for found in NFE.finditer(block.text) if found.end() <= place][-1:] or list(NFE.finditer(block.text))[:1]
    if said and row.get("nfe") not in (None, said[0][1]):
        return f"stands beside NFE {said[0][1]}, and is of NFE {row['nfe']}"
    return ""
