"""What a short id names: a file that a ledger of this repository has, by the head of its sha256, of its md5 or of its record's recipe key.

Ids are printed by `why`, behind rows of LaTeX, in pictures and on pages, each of which may lie in another suite than the one that is asked.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from backtrail.errors import UserError
from backtrail.laid_down import ROOT
from backtrail.layout import LOCK_FILE
from backtrail.ledger.chains import facts
from backtrail.ledger.confined import open_confined
from backtrail.ledger.fingerprints import digest_of
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.record import recipe_key
from backtrail.ledger.schema import faults

ID = re.compile(r"[0-9a-f]{8,64}")


def by_id(name: str, own: Ledger | None) -> tuple[Ledger, list[str]]:
    """The ledger with the one digest that begins with `name`, and the files of that digest: `own`, or that of another suite.

    Raises UserError if no digest, or more than one, begins so.
    """
    for ledgers in ((own,) if own else (), (open_confined(suite) for suite in suites() if (suite / LOCK_FILE).is_file())):
        found = [(digest, ledger, paths) for ledger in ledgers for digest, paths in digests(ledger).items() if digest.startswith(name)]
        if len({digest for digest, _, _ in found}) > 1:
            named = [path for _, _, paths in found for path in paths]
            raise UserError(f"{name} is the short id of {len(named)} files; it begins the digests of {', '.join(named[:4])}: add digits")
        if found:  # where a file was made before where it was fetched to
            return next((of[1:] for of in found if any(path in of[1].makers for path in of[2])), found[0][1:])
    raise UserError(f"{name} is the short id of no file that a ledger here names: {_carrier(name)}")


def digests(ledger: Ledger) -> dict[str, list[str]]:
    """The paths of every digest that a ledger names: of what stages made, read, fetched or kept as the nodes of a path."""
    md5 = {path: entry.md5 for kind in ("deps", "outs") for stage in ledger.stages.values() for path, entry in getattr(stage, kind).items()}
    records = [(stage, record) for stage in ledger.stages.values() if (record := ledger.records[stage.name]) and not faults(record)]
    sha256 = {path: digest for kind in ("inputs", "outputs") for _, record in records for path, digest in record[kind].items()}
    found = defaultdict(list)
    for named in (md5, sha256):
        for path, digest in named.items():
            found[digest].append(path)
    for stage, record in records:
        found[recipe_key(stage.name, record["parameters"], record["inputs"], {stage.command: digest_of(record["code"])})] = [stage.record]
        for path in stage.products:
            told = facts(ledger, stage, path)
            for digest in (*(of["sha256"] for of in told.get("files", [])), *(of["tensors_sha256"] for of in told.get("nodes", []))):
                found.setdefault(digest, [path])
    return found


def suites() -> Iterator[Path]:
    """The folders of this repository's suites, its own first."""
    yield from (ROOT, *sorted(path.parent for path in ROOT.glob("suites/*/params.yaml")))


def _carrier(name: str) -> str:
    """Why a table or a picture of this repository carries an id that no ledger has, with the cure."""
    carried = re.compile(rb"(?:backtrail why|% from)(?: [0-9a-f]+)* " + name.encode())
    for suite in suites():
        for path in sorted((suite / "reports").rglob("*")):
            if path.is_file() and carried.search(path.read_bytes()):
                file, place = path.relative_to(ROOT), suite.relative_to(ROOT)
                if (suite / LOCK_FILE).is_file():
                    return f"{file} carries it, and was made by other code, parameters or data than the ledger of {place} is of"
                return f"{file} carries it, and the ledger of {place} is not here; `snakemake -d {place} --profile local` runs that suite"
    return "it was made by other code, parameters or data"
