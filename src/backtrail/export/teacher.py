"""A trained teacher for other suites: its weights and those of what it comes with, with a card that says what and from where they are."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backtrail import layout
from backtrail.artifacts import atomic_write, file_digest, load_json
from backtrail.data.sources import SOURCES
from backtrail.data.text_teacher import PARTS
from backtrail.errors import UserError
from backtrail.export.cards import data_source
from backtrail.laid_down import ROOT
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger, Stage, open_ledger
from backtrail.parameters.text_suite import is_text

TITLE = "# The teacher of the suite `"  # of a card
CARD = """\
---
license: apache-2.0
library_name: pytorch
tags: [diffusion, teacher]
datasets: [{data_set}]
---
# The teacher of the suite `{suite}`, trained on {data}

Name this folder in another suite's `params.yaml`; the files are held against their digests when they are fetched:

```yaml
{sections}
teacher:
  source: own-backtrail
  local: {folder}
  sha256: {{{digests}}}
```

## Quality

{quality}

## Where it comes from

{origin}
- data: {purpose}; {homepage}; licence: {licence}

Its record is in `{ledger}` of that suite; `backtrail why` goes on into it from a suite that imports the file.

## Limits

Made to compare methods that distil it: it shows what the data set shows, at its size, and nothing else.
"""


def export_teacher(folder: str | Path, suite: str | Path = ".") -> list[str]:
    """Write the teacher of `suite`, what it comes with and `README.md`, their card, into `folder`; returns the names of the files.

    With a teacher of images goes the classifier; with one of text to images, the first stage and the judges. Raises UserError unless the
    suite has trained all of them, and their bytes, and those of what was measured, are those of its ledger; and unless what lies in the
    folder under those names is what this suite exported.
    """
    ledger = open_ledger(suite)
    own = ("autoencoder", "judge", "caption_tower") if is_text(ledger.params) else ("classifier",)
    if imported := [key for key in ("teacher", *own) if "source" in (ledger.params.get(key) or {})]:
        raise UserError(f"this suite imports its {' and its '.join(imported)}: publish from the suite that trained them, under its licence")
    made = {Path(path).name: path for path in (PARTS if is_text(ledger.params) else (layout.TEACHER, layout.CLASSIFIER))}
    digests = {name: _digest(ledger, path) for name, path in made.items()}
    _digest(ledger, layout.metrics())
    card = Path(folder) / "README.md"
    _check_own_export(Path(folder), card, ledger.params.get("suite", ""), digests)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in made.items():
        atomic_write(Path(folder) / name, lambda file, path=path: shutil.copyfile(ledger.folder / path, file))
    text = _card(ledger, folder, made, digests, own)
    atomic_write(card, lambda file: file.write_text(text, encoding="utf-8"))
    return [*made, "README.md"]


def _check_own_export(folder: Path, card: Path, suite: str, digests: dict[str, str]) -> None:
    """Raises UserError where a file would be overwritten that is neither as it is to be nor of an earlier export of this suite.

    Of the suite is a card that bears its name, and a file of weights that has the digest which such a card says of it.
    """
    said = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    is_ours = f"{TITLE}{suite}`" in said
    if os.path.lexists(card) and not is_ours:
        raise UserError(f"{card} is there and no card of a teacher of suite {suite}: name another folder, or move it away")
    for name, digest in digests.items():
        path = folder / name
        if not os.path.lexists(path):
            continue
        found = file_digest(path) if path.is_file() else ""
        if found != digest and not (is_ours and _line(name, found) in said.splitlines()):
            raise UserError(f"{path} is there and was not exported by suite {suite}: name another folder, or move it away")


def _digest(ledger: Ledger, path: str) -> str:
    """sha256 of an output whose bytes are here as its record has them."""
    stage, found = ledger.maker(path), Hashes(ledger.folder).of(path)
    record = ledger.records[stage.name] if stage else None
    if record is None or found is None or record["outputs"].get(path) != found.sha256:
        raise UserError(f"{path} is not here as this suite's ledger has it: run the suite, or `dvc checkout`, and try again")
    return found.sha256


def _card(ledger: Ledger, folder: str | Path, made: dict[str, str], digests: dict[str, str], own: tuple[str, ...]) -> str:
    """The card as Markdown with the head that model hubs read. own: the sections of a suite that imports the files, beside `teacher`."""
    source = SOURCES["fashion-mnist"] if is_text(ledger.params) else data_source(ledger)
    return CARD.format(
        data_set=json.dumps(source.name),
        data=f"{source.name} in colours, with captions" if is_text(ledger.params) else source.name,
        suite=ledger.params.get("suite", ""),
        folder=_local(Path(folder)),
        sections="\n".join(f"{key}:\n  source: own-backtrail" for key in own),
        digests=", ".join(f"{file}: {of}" for file, of in digests.items()),
        quality="\n".join(_quality(load_json(ledger.folder / layout.metrics()))),
        origin="\n".join(line for file, path in made.items() for line in _made(ledger, ledger.maker(path), file, digests[file])),
        ledger=layout.GATHERED,
        **{key: getattr(source, key) for key in ("purpose", "homepage", "licence")},
    )


def _local(folder: Path) -> str:
    """The folder as it is named from the repository, or as it was given where it lies outside; in quotes where YAML may need them."""
    lies = folder.resolve()
    named = (lies.relative_to(ROOT) if lies.is_relative_to(ROOT) else folder).as_posix()
    return named if re.fullmatch(r"[\w.-]*/[\w./-]+", named) else json.dumps(named)


def _line(file: str, digest: str) -> str:
    """The line of a card that holds a file of weights to its bytes."""
    return f"- `{file}`: sha256 `{digest}`"


def _made(ledger: Ledger, stage: Stage | None, file: str, digest: str) -> Iterator[str]:
    record = (ledger.records[stage.name] if stage else None) or {}
    dirty = " with changes that were not committed" if record["dirty"] else ""
    machine = (record["device"] or {}).get("name") or record["host"]["processor"]
    resumed = f" after step {record['resumed_from'][-1]:,}" if record["resumed_from"] else ""
    yield _line(file, digest)
    yield f"  - stage `{record['stage']}`, commit `{record['commit']}`{dirty}, {record['cpu_seconds']:,.0f} CPU s{resumed} on {machine}"


def _quality(measured: dict[str, Any]) -> Iterator[str]:
    """A row per sampler and number of network evaluations, and one line of protocol for each metric."""
    order = [entry["metric"] for entry in measured["protocol"]]
    names = sorted(
        next(of for by_nfe in measured["values"].values() for of in by_nfe.values()),
        key=lambda name: order.index(name) if name in order else len(order),
    )
    yield f"| solver | NFE | {' | '.join(names)} |"
    yield f"|{' --- |' * (len(names) + 2)}"
    for sampler, by_nfe in measured["values"].items():
        for nfe, of in by_nfe.items():
            yield f"| {sampler} | {nfe.removeprefix('nfe')} | {' | '.join(f'{of[name]:.4g}' for name in names)} |"
    yield ""
    first = measured["protocol"][0]
    counts = f"{first['n_images']} images against {first['n_reference']} in the first column"
    yield f"{counts}; every protocol is in `{layout.metrics()}` of that suite."
