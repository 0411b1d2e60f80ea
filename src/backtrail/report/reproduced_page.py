"""The page that holds a run against published results, number by number.

No stage writes it, and so it does not lie in reports/: the report's page must be the same bytes wherever the same results are shown, and
what is published is another commit's.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from backtrail.artifacts import atomic_write
from backtrail.layout import PAGE, PARAMS_FILE
from backtrail.parameters.base import read
from backtrail.report.html_parts import HtmlTable, cell, environment
from backtrail.report.run_page import RUN_PAGE

HEADINGS = ["Number", "How near", "Published", "Here", "Difference", "Spread"]


def render_reproduced(path: Path, lead: str, remarks: Sequence[str], rows: Iterable[Sequence[str]], folder: Path) -> None:
    """Write the page: a paragraph, remarks below it, and a table with a row of texts, in the order of `HEADINGS`, for each number."""
    values = read(folder / PARAMS_FILE)
    numbers = HtmlTable("numbers", "This run against the published one", HEADINGS, [[cell(text) for text in row] for row in rows])
    title = str((values.get("report") or {}).get("title") or values.get("suite"))
    pages = [
        (name, Path(os.path.relpath(folder / page, path.parent)).as_posix())
        for name, page in (("What came out", PAGE), ("The run", RUN_PAGE))
        if (folder / page).is_file()
    ]
    text = environment().get_template("reproduced.html").render(title=title, lead=lead, remarks=remarks, pages=pages, numbers=numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))
