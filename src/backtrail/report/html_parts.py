"""What the HTML pages are put together from: cells, tables, and the templates."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from backtrail.report.dag import HEIGHT, WIDTH

TEMPLATES = Path(__file__).with_name("templates")
NUMERIC = re.compile(
    r"^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ± .*| \(untrained\)| \[[A-Z0-9-]+\])?$|^±.*$|^–$|^unknown$"  # noqa: RUF001 (a dash)
)
DIGEST = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Cell:
    """One cell of an HTML table: its text, the place it links to, its class, its anchor, and what the chain's window says of a number.

    name: how the number is asked for; exact: all its digits; seeds: the values that it is the mean of; metric: whose protocol holds.
    """

    text: str
    link: str = ""
    style: str = ""
    anchor: str = ""
    name: str = ""
    exact: str = ""
    seeds: str = ""
    metric: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """A sortable table: an id, a caption, headings and rows of cells."""

    key: str
    caption: str
    headings: list[str]
    rows: list[list[Cell]]


def cell(value: Any, link: str = "", anchor: str = "") -> Cell:
    """A cell that is aligned as a number, or set as a digest, if it reads as one."""
    text = str(value)
    return Cell(text, link, "num" if NUMERIC.match(text) else "code hash" if DIGEST.match(text) else "", anchor)


def environment() -> jinja2.Environment:
    """The templates: every value is text in them, and a name that they are not given is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.globals["size"] = (WIDTH, HEIGHT)
    return found
