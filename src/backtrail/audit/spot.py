"""Spot checks: stages picked at random, the more often the more numbers rest on them, and run again; and what that shows of all numbers.

Who made the results must not know which stages will be picked: the auditor draws the seed. It is printed, for others to draw again.
"""

import random
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backtrail.audit.audit import Rerun
from backtrail.audit.recompute import chosen
from backtrail.audit.rerun import again
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import numbers

SHARE = 0.1  # of the numbers, made otherwise: the case that the closing sentence speaks of


@dataclass(frozen=True)
class Population:
    """The stages that can be picked, with how many numbers rest on each, and of every number the stages that it rests on."""

    weights: dict[str, int]
    chains: list[frozenset[str]]


def population(ledger: Ledger, names: Sequence[str]) -> Population:
    """What the numbers of a suite rest on among the stages of these names; numbers that a paper is quoted for rest on none."""
    chains = [
        frozenset(of[6:] for of in number.closure(ledger) if of.startswith("stage:")) for number in numbers(ledger) if not number.external
    ]
    counted = Counter(name for chain in chains for name in chain)
    return Population({name: counted[name] for name in names if counted[name]}, chains)


def picked(weights: dict[str, int], n: int, seed: int) -> list[str]:
    """`n` stages without any twice, each drawn with odds as its weight among those that are left."""
    draw, left, found = random.Random(seed), dict(weights), []
    while left and len(found) < n:
        (name,) = draw.choices(list(left), list(left.values()))
        found.append(name)
        del left[name]
    return found


def missed(of: Population, names: Sequence[str], share: float = SHARE) -> float:
    """The level at which these picks, all found right, rule out that `share` of the numbers was made otherwise: as a p-value is one.

    Each such number rests on one stage at least whose outputs were made otherwise, so these stages weigh `share` times the count of numbers
    or more. Each pick misses them with one less their part of the weight that was left then; the product over the picks is a number that
    whoever made them gets below any level, and is missed, with a chance of no more than that level.
    """
    forged, left, chance = share * len(of.chains), sum(of.weights.values()), 1.0
    for name in names:
        chance *= max(0.0, 1 - forged / left)
        left -= of.weights[name]
    return chance if left >= forged else 0.0


def spot_checks(ledger: Ledger, bad: set[str], patterns: Sequence[str], n: int, seed: int | None = None) -> Rerun:
    """`n` stages run again, of those that fit a pattern and whose inputs are sound; their outputs against the ledger."""
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    todo, notes = chosen(ledger, bad, patterns, "")
    stages = {stage.name: stage for stage in todo if not stage.keeps_books}
    of = population(ledger, list(stages))
    names = picked(of.weights, n, seed)
    found, right, said, n_again = again(ledger, [stages[name] for name in names])
    failed = {finding.subject for finding in found}
    same = {name for name in names if not failed & {f"stage:{name}", *stages[name].products}}
    return found, right, [*notes, *said, *_sentences(of, names, same, seed)], n_again


def _sentences(of: Population, names: list[str], same: set[str], seed: int) -> list[str]:
    """What the picks were, and what they show."""
    drawn = f"spot checks, seed {seed}: {', '.join(names) or 'none'}; drawn from {len(of.weights)} stages by how many numbers rest on each"
    if not names or len(same) < len(names):
        return [drawn]
    n, weighed = len(of.chains), of.weights.keys()
    bound = sum(chain <= same for chain in of.chains)
    touched = sum(bool(chain & same) for chain in of.chains)
    told = (
        f"{bound / n:.0%} of {n:,} numbers are bound to the method through their whole chain, {touched / n:.0%} through one stage or more"
    )
    within = sum(chain <= weighed for chain in of.chains)
    beyond = "" if within == n else f" (and stages that could not be picked here are part of the chains of {n - within:,})"
    chance = f"had {SHARE:.0%} of the numbers been made otherwise, {len(names)} picks would have missed it with a probability of at most "
    return [drawn, told + beyond, f"{chance}{missed(of, names):.2g}, unless they were made by changing the code"]
