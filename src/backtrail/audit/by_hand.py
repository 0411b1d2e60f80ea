"""Where files lie that the user got by hand, and no stage made: the folders that parameters name, of a suite and of those below it."""

import os
from collections.abc import Collection
from pathlib import PurePosixPath

from backtrail.errors import UserError
from backtrail.laid_down import BY_HAND as LAID_DOWN_THERE
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.ledger import BY_HAND, Ledger, at_key
from backtrail.parameters.base import read

DATA = "data"


def places_by_hand(ledger: Ledger) -> frozenset[str]:
    """Paths from the suite. Of a suite below `suites/` only what lies in this one's data, such as the published teacher that it takes over,
    and not where a stage writes: what is shown here needs a stage of this suite."""
    return frozenset(map(os.path.normpath, ledger.by_hand)) | {LAID_DOWN_THERE} | _of_those_below(ledger)


def _of_those_below(ledger: Ledger) -> frozenset[str]:
    found = set()
    for file in ledger.folder.glob(f"suites/*/{PARAMS_FILE}"):
        try:
            values = read(file)
        except UserError:
            continue
        for local in (at_key(values, key) for key in BY_HAND):
            if isinstance(local, str):
                found.add(os.path.normpath(file.parent.relative_to(ledger.folder) / local))
    return frozenset(place for place in found if place.startswith(f"{DATA}/") and not ledger.below(place))


def lies_in(name: str, places: Collection[str]) -> bool:
    """Whether a file is one of the places, or lies below one."""
    return any(str(above) in places for above in (PurePosixPath(name), *PurePosixPath(name).parents) if above.parts)
