"""Verdicts, their order, and what is found wrong."""

from dataclasses import dataclass

VERIFIED, RECOMPUTED, EXTERNAL, PUBLISHED = "verified", "recomputed", "external", "published"
CLOSE, ABSENT, STALE, UNBACKED, BROKEN = "within tolerance", "not here", "stale", "unbacked", "broken"
EXIT_CODES = {VERIFIED: 0, RECOMPUTED: 0, EXTERNAL: 0, PUBLISHED: 0, CLOSE: 5, ABSENT: 8, STALE: 10, UNBACKED: 20, BROKEN: 30}
MEANINGS = {
    VERIFIED: "every byte that it rests on is the one that the ledger names",
    RECOMPUTED: "verified, and computed again from stored files with the same result",
    EXTERNAL: "quoted from a paper, with its source",
    PUBLISHED: "quoted in prose as published; this machine's own run gives another number",
    CLOSE: "computed again here with other bytes that say nearly the same; not the same, and no proof that it is not forged",
    ABSENT: "all that lies here is as the ledger names it, and the ledger is whole; some bytes that it rests on are not here to be read",
    STALE: "code, a parameter or an input has changed since",
    UNBACKED: "nothing says where something that it rests on comes from",
    BROKEN: "bytes differ from what the ledger says, or the ledger contradicts itself",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    subject: the path or `stage:NAME` that everything which rests on it inherits the verdict from. link: between what and what. cure: a
    command, where there is one. absent: nothing is wrong but that something is not here.
    """

    verdict: str
    subject: str
    link: str
    message: str
    cure: str = ""
    size_bytes: int = 0
    absent: bool = False


def worst(verdicts: list[str], good: str = VERIFIED) -> str:
    """The worst of the verdicts; `good` if there are none. What is published only says more than `good`, and is no worse."""
    return max([good, *verdicts], key=lambda verdict: (EXIT_CODES[verdict], verdict == PUBLISHED))
