"""What each level of an audit can prove, and what it cannot. An audit ends with it, since "verified" alone says less than it sounds."""

LEVELS = ("hash", "metric", "figure", "stage")
PROOFS = {
    "hash": "these bytes are those of the ledger, the ledger contradicts itself nowhere, and what params.yaml declares is shown. It trusts "
    "the ledger: whoever may write the repository may write the ledger too",
    "metric": "the ledger's samples give these metrics, and the metrics these tables. It does not show where the samples come from",
    "figure": "the ledger's measured values give these figures and this page. It does not show where the values come from",
    "stage": "the ledger's inputs and code give these outputs, for the stages that ran again: only this binds a number to the method. "
    "It does not show that the code does what it says, nor that other seeds were not tried and left out",
}


BESIDE = (
    "left out: rows, seeds, metrics and claims that params.yaml declares are there, and what it held in an earlier commit is told. What "
    "was tried and never committed is known to nobody",
    "plausibility: nothing that is known to be hard to believe was found, or it stands above. It proves nothing: a good forger passes it",
)


def what_it_proves(levels: tuple[str, ...], n_again: int, n_stages: int) -> list[str]:
    """A line for each level: what it shows, or that it was not run. n_again: stages that ran again, of n_stages."""
    ran = {"hash", *levels}
    lines = [f"{level}: {PROOFS[level]}" if level in ran else f"{level}: not run; it would show that {PROOFS[level]}" for level in LEVELS]
    share = f" ({n_again} of {n_stages} stages ran again)" if "stage" in ran else ""
    return [*lines[:-1], lines[-1] + share, *BESIDE]
