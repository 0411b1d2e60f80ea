"""Markdown as a reader sees it: blocks of text without style, with what stands above each, and the marks that are taken out of it.

`<!-- number FILE:SELECTOR -->13.9<!-- /number -->` quotes a number, `<!-- quote NAME -->` to `<!-- /quote -->` a text, and what stands
between `<!-- measured: COMMAND -->` and `<!-- /measured -->` was measured otherwise. Comments, hidden parts and descriptions of pictures
are blocks of their own, since they are not shown where they stand.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html import unescape

from markdown_it import MarkdownIt
from markdown_it.token import Token

MARK = re.compile(r"<!-- number (\S+) -->(.{0,200}?)<!-- /number -->", re.DOTALL)
MEASURED = re.compile(r"<!-- measured: ([^\n>]{1,200}) -->((?:(?!<!-- measured:).)*?)<!-- /measured -->", re.DOTALL)
WHOLE = re.compile(r"<!-- quote ([\w./-]{1,200}) -->((?:(?!<!-- quote ).)*?)<!-- /quote -->", re.DOTALL)
COMMENT = re.compile(r"<!--(?:-?>|(.*?)--!?>)", re.DOTALL)  # `<!-->` is a whole one to a browser
# Fences and code spans, in which marks are shown and mean nothing.
CODE = re.compile(
    r"^ {0,3}(`{3,}+|~{3,}+)[^`\n]*+\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)|(?<!`)(`++)(?:(?!\n\s*\n).)+?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE
)
PLACE = re.compile("\ue000(\\d+)\ue001")  # what stands for a mark while a text is read
SEAM = "\ue002"  # where style or a tag begins or ends
OWN = re.compile("[\0\ue000-\ue002]")  # what a text may not bring along
BETWEEN = re.compile(r"</?(?:t[dhr]|p|div|li|br|hr|h\d|table|d[dtl]|[uo]l|pre|summary|details)\b[^<>]{0,500}>", re.IGNORECASE)
ATTRIBUTE = r"""\s+[a-zA-Z_:][\w.:-]{0,50}(?:\s*=\s*(?:"[^"<>]{0,500}"|'[^'<>]{0,500}'|[^\s"'=<>`]{1,500}))?"""
TAG = re.compile(rf"</?[a-zA-Z][\w-]{{0,50}}(?:{ATTRIBUTE})*\s*/?>")  # `<around 5.9>` is none, and is shown
HIDDEN = re.compile(r"<[a-z][\w-]*\b[^<>]*(?:\shidden\b|display\s*:\s*none|visibility\s*:\s*hidden)[^<>]*>", re.IGNORECASE)
TITLE = re.compile(r"<h([1-6])\b", re.IGNORECASE)
GOES_ON = re.compile(r"\s*<(?:/|t[rdh]\b|tbody\b)", re.IGNORECASE)  # a table that a blank line does not end
# Between a letter and a digit a seam is a gap: `FD<kbd>5.9</kbd>` is read as two words.
GLUE = f"[{SEAM}~`}}\u200b-\u200d\u2060\ufeff]+"
GLUED = re.compile(rf"(?<=[^\W\d]){GLUE}(?=[\d.])|(?<=\d){GLUE}(?=[^\W\de])")
# Spaces too narrow to part two digits, small digits of footnotes, and dashes of every length.
NARROW = re.compile("(?<=[\\d.,])[\u2004-\u200a\u202f]+(?=[\\d.,\ue000])")
SMALL = re.compile("[\u00b2\u00b3\u00b9\u2070-\u209c]+")
DASH = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
# Cyrillic and Greek letters that look like Latin ones, and signs that look like a decimal point.
ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0405\u0406\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456"
    "\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03bf\u00b7\u066b\u2219\u22c5\u2022\u2024\u3002\u201a\ua4f8\u2027",
    "ABEKMHOPCTXSIaeopcyxsiABEHIKMNOPTXo..........",
)
INVISIBLE = ("Cf", "Mn", "Me")
LATEX = re.compile(r"\\[a-zA-Z]+(?=[{.\d])|[*~`{}$]+|\\(?=[^\w\s])")
ADDRESS = re.compile(r"https?://[^\s|]+")
# What touches a mark before and after it and makes another number of what it quotes: digits, a sign, letters that pass for digits.
BEFORE = re.compile(r"\d[.,']?$|(?<![^\W\d_])[OIl][.,']?$|(?<!\w)\.$|(?:^|[\s(|:])-$")
AFTER = re.compile(r"[.,']?\d|e[-+]?\d", re.IGNORECASE)
DEPTH = 20  # of lists and quotations in one another, beyond which the parser reads nothing: a line so deep is read by itself
PARSER = MarkdownIt("commonmark", {"maxNesting": DEPTH}).enable(["table", "strikethrough"])
DEEP = re.compile(rf"^(?:(?:[ \t]*(?:>|(?:[-*+]|\d{{1,9}}[.)])(?=\s))){{{DEPTH // 3},}}|[ \t]{{{DEPTH},}})(.*)$", re.MULTILINE)
# Of a footnote, which this parser does not know: a line that it would take for the address of a link.
NOTE, NOTED = re.compile(r"^ {0,3}\[\^([^\]\n]{1,50})\]:", re.MULTILINE), re.compile(r"\[\^([^\]\n]{1,50})\]")
FOOTNOTE = re.compile(r"footnote (\S{1,50}):")


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list, a row of a table, a heading, as it is read.

    quotes: (place in the text, target, what is quoted) of each mark. above: what it stands below, the outermost first: headings, items of
    lists, the line before a list. heads, starts: the table's head, and where in the text its columns begin.
    """

    text: str
    quotes: tuple[tuple[int, str, str], ...] = ()
    above: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()

    def head_at(self, place: int) -> str:
        """The head of the column that a place in the text lies in; empty outside of a table."""
        found = [head for head, start in zip(self.heads, self.starts, strict=False) if start <= place]
        return found[-1] if found else ""

    def under(self, head: str) -> str:
        """A row's value in the column of that head; empty if there is none."""
        ends = (*self.starts[1:], len(self.text))
        cells = zip(self.heads, self.starts, ends, strict=False)
        return next((self.text[start:end].strip(" |") for name, start, end in cells if name.strip().lower() == head.lower()), "")


@dataclass
class Above:
    """What stands above the block that is read."""

    headings: list[tuple[int, str]] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)  # the line before each list that is open, and the first line of each item
    line: str = ""  # the paragraph before, if it leads to what follows

    def enter(self, level: int, title: str) -> None:
        """A heading ends the sections of its level and of those below it."""
        self.headings = [*(of for of in self.headings if of[0] < level), (level, title)]

    def all(self) -> tuple[str, ...]:
        """The title of a text is what it is about, not what each of its numbers is of: it counts where no other heading stands."""
        titles = [text for level, text in self.headings if level > 1] or [text for _, text in self.headings]
        return tuple(filter(None, (*titles, *self.lists, self.line)))


def substituted(pattern: re.Pattern[str], write: Callable[[re.Match[str]], str], text: str) -> str:
    """`pattern.sub`, with what stands in code left as it is."""
    spans = [code.span() for code in CODE.finditer(text)]
    starts = [start for start, _ in spans]

    def outside(mark: re.Match[str]) -> str:
        before = bisect_right(starts, mark.start()) - 1
        return mark[0] if before >= 0 and mark.start() < spans[before][1] else write(mark)

    return pattern.sub(outside, text)


def quoted_whole(text: str) -> list[tuple[str, str]]:
    """(name, what stands there) of each text that is quoted whole."""
    found: list[tuple[str, str]] = []
    substituted(WHOLE, lambda mark: found.append((mark[1], mark[2])) or "", text)
    return found


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text; what is quoted whole or was measured by other means is left out."""
    marks: list[tuple[str, str]] = []

    def taken(mark: re.Match[str]) -> str:
        marks.append((mark[1], mark[2].strip()))
        return f"\ue000{len(marks) - 1}\ue001"

    text = substituted(WHOLE, lambda _: "\n\n", OWN.sub("", text).replace("\r\n", "\n"))
    text = substituted(MEASURED, lambda _: "\n\n", substituted(MARK, taken, text))
    text = NOTE.sub(r"\n\nfootnote \1: ", text)
    noted: dict[str, str] = {}  # what names a footnote
    seen: set[str] = set()
    # A comment may stand in the midst of a number; what it says is read too, by itself.
    for part in (COMMENT.sub(SEAM, text), *filter(str.strip, COMMENT.findall(text))):
        for block in _parsed(part):
            seen.add(block.text)
            noted |= dict.fromkeys(NOTED.findall(block.text), block.text)
            note = FOOTNOTE.match(block.text)
            above = (*block.above, noted.get(note[1], "")) if note else block.above
            yield _with_quotes(replace(block, above=above), marks)
    for line in map(_read, DEEP.findall(text)):
        if line not in seen:
            yield _with_quotes(Block(line), marks)


def _parsed(text: str) -> Iterator[Block]:
    """The blocks of a text, with marks standing in them."""
    above, aside, row, head, html = Above(), [], [], (), ""
    tokens = PARSER.parse(text)
    for i, token in enumerate(tokens):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            above.lists.append(above.line)
            above.line = ""
        elif token.type == "list_item_open":
            above.lists.append("")
        elif token.type in ("bullet_list_close", "ordered_list_close", "list_item_close"):
            above.lists.pop()
            above.line = ""
        elif token.type == "table_open":
            head = ()
        elif token.type == "table_close":
            above.line = ""
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            yield _row(row, head, above.all())
            head = head or tuple(row)
        elif token.type == "inline":
            said, kind = _shown(token, aside), tokens[i - 1]
            if kind.type in ("td_open", "th_open"):
                row.append(_read(said))
            elif kind.type == "heading_open":
                title, above.line = _read(said), ""
                above.enter(int(kind.tag[1]), "")
                yield Block(title, above=above.all())
                above.enter(int(kind.tag[1]), title)
            else:
                yield from _paragraph(said, token, above)
        elif token.type in ("fence", "code_block"):
            for part in re.split(r"\n\s*\n", token.content):
                yield Block(_read(part), above=above.all())
            above.line = ""
        elif token.type == "html_block":
            before = (html,) if GOES_ON.match(token.content) else ()
            html = _read(TAG.sub("", BETWEEN.sub(" ", token.content)))
            if title := TITLE.search(token.content):
                above.enter(int(title[1]), html)
            yield Block(html, above=(*above.all(), *before))
    yield from (Block(_read(part)) for part in aside)


def _paragraph(said: str, token: Token, above: Above) -> Iterator[Block]:
    """A paragraph, whose lines that begin with a bar are read as rows; it leads to what follows if it ends in a colon or is all style."""
    for part in re.split(r"\n(?=\s*\|)|(?<=\|)\n", said):
        text = _read(part)
        yield Block(text, above=above.all())
    kinds = [child.type for child in token.children or [] if child.content or child.type != "text"]
    styled = kinds[:1] in (["strong_open"], ["em_open"]) and kinds[-1].endswith("_close")
    above.line = text if styled or text.rstrip().endswith(":") else ""
    if above.lists and not above.lists[-1]:
        above.lists[-1], above.line = text, ""


def _row(cells: list[str], head: tuple[str, ...], above: tuple[str, ...]) -> Block:
    starts, text = [], "|"
    for cell in cells:
        starts.append(len(text))
        text += f" {cell} |"
    return Block(text, above=above, heads=head, starts=tuple(starts))


def _shown(token: Token, aside: list[str]) -> str:
    """What an inline token shows, with seams; what it hides or describes goes to `aside`."""
    shown, hidden = [], []
    for child in token.children or []:
        if child.type == "image":
            aside.append(child.content)
        elif child.type == "html_inline":
            if hidden or HIDDEN.match(child.content):
                if not child.content.startswith("</"):
                    hidden.append(child.content)
                elif hidden:
                    hidden.pop()
            shown.append(" " if BETWEEN.match(child.content) else SEAM)
        elif child.type in ("softbreak", "hardbreak"):
            shown.append("\n")
        elif child.content:
            text = f"{SEAM}{child.content}{SEAM}" if child.type == "code_inline" else child.content
            (aside if hidden else shown).append(text)
        else:
            shown.append(SEAM)
    return "".join(shown)


def _read(text: str) -> str:
    """A text without style, invisible signs and look-alikes, on one line."""
    text = GLUED.sub(" ", unescape(TAG.sub("", text)))
    text = SMALL.sub(" ", NARROW.sub("", text.replace(SEAM, ""))).translate(ALIKE)
    text = DASH.sub("-", unicodedata.normalize("NFKC", DASH.sub("-", text)))
    text = "".join(c for c in text if unicodedata.category(c) not in INVISIBLE)
    return " ".join(ADDRESS.sub(" ", LATEX.sub("", text)).split())


def _with_quotes(block: Block, marks: list[tuple[str, str]]) -> Block:
    """The same block with its marks taken out; one that digits touch stays, and is read with them."""
    pieces = PLACE.split(block.text)
    read, quotes, moved, starts = pieces[0], [], 0, list(block.starts)
    for index, after in zip(pieces[1::2], pieces[2::2], strict=True):
        target, shown = marks[int(index)]
        quotes.append((len(read), target, shown))
        stands = shown if BEFORE.search(read) or AFTER.match(after) else "  "
        moved = len(stands) - len(index) - 2
        starts = [start + moved if start > len(read) else start for start in starts]
        read += stands + after
    above = tuple(PLACE.sub(" ", text) for text in block.above)
    return Block(read, tuple(quotes), above, tuple(PLACE.sub(" ", head) for head in block.heads), tuple(starts))
