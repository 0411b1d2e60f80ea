"""The hash level: the bytes on disk against the ledger, and the ledger against itself, link by link. Nothing of the suite's is executed.

Each check yields findings and trusts nothing that another has not read. Where one thing is wrong, its consequences are not reported as
findings of their own: they follow from what rests on what (`Ledger.closure`).
"""

from collections.abc import Iterator

from backtrail.audit.evidence import Evidence, outputs
from backtrail.audit.findings import Finding
from backtrail.audit.links import declarations, inputs, parameters, strays
from backtrail.audit.records import record
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger


def hash_findings(ledger: Ledger, hashes: Hashes) -> Iterator[Finding]:
    """All of them, each link once."""
    of = Evidence(ledger, hashes)
    stages = [stage for stage in ledger.stages.values() if not stage.makes_code]
    hashes.read({path for stage in stages for path in [*stage.deps, *stage.outs]})
    for stage in stages:
        yield from outputs(of, stage)
    yield from declarations(ledger)
    for stage in stages:
        for check in (inputs, parameters) if stage.keeps_books else (record, inputs, parameters):
            yield from check(of, stage)
    yield from strays(of)
