"""`backtrail check`: params.yaml as a whole, and the files of your own that it names."""

import re
from typing import get_args

import click

from backtrail.cli.own_files import check_own_files, check_text_teacher
from backtrail.errors import UserError
from backtrail.ledger.fingerprints import PACKAGE_FOLDER
from backtrail.ledger.repository import nameless
from backtrail.parameters.decoded_suite import DecodedSuite
from backtrail.parameters.ring import RingSuite
from backtrail.parameters.sampling import SolverName, TeacherSampler
from backtrail.parameters.suite import Suite, read_suite
from backtrail.parameters.text_suite import PublishedTextSuite
from backtrail.report.names import LOOKS

OF_METHODS = frozenset(name for name, look in LOOKS.items() if not look.label.startswith("Teacher"))  # the papers' own, by name
SOLVER_OF = {**{name: name for name in get_args(SolverName)}, "heun-guided": "heun", "ipndm": "ipndm-4"}  # what a sampler's name promises
ONE_NFE = re.compile(r"-nfe\d+$")  # of a name: what the papers say of the name without it is quoted beside it


@click.command()
def command() -> None:
    """Check params.yaml, and your own images and teacher where it names some; nothing is run.

    Unknown keys, wrong types, impossible values and misleading names are named, as is what the images or the teacher do not allow. How your
    images are read (size, classes, splits, what is left out) is printed.
    """
    suite = read_suite()
    if not isinstance(suite, RingSuite):
        check_names(suite)
    understood = check_own_files(suite) if isinstance(suite, Suite) else []
    if isinstance(suite, PublishedTextSuite):
        check_text_teacher(suite)
    if said := nameless(PACKAGE_FOLDER):
        click.echo(f"note: {said}", err=True)
    for line in understood:
        click.echo(line)
    click.echo(f"params.yaml is valid: suite {suite.suite}, methods {', '.join(suite.methods)}, seeds {', '.join(map(str, suite.seeds))}")


def check_names(suite: Suite | DecodedSuite) -> None:
    """Raises UserError for a sampler or a student that claims and tables, which go by names, would take for another."""
    for name, sampler in suite.teacher_samples.samplers.items():
        key = f"teacher_samples.samplers.{name}"
        if name in suite.methods and not _is_apart(suite, name):
            raise UserError(f"{key} and students.{name} have one name, and claims and tables would pool them: give one of them another")
        if ONE_NFE.sub("", name) in OF_METHODS:
            raise UserError(f"{key} has the name of a method of the papers, and claims and tables would take it for that: give it another")
        if (solver := _promised(name, sampler)) is not None:
            found = f"solver {sampler.solver}, guidance {sampler.guidance:g}"
            raise UserError(
                f"{key} is by its name {solver}, and has {found}: claims and tables go by the name, so write that, or another name"
            )
    if taken := [name for name in suite.methods if ONE_NFE.sub("", name) in SOLVER_OF]:
        raise UserError(f"students.{taken[0]} has the name of a solver of the teacher, and claims would take it for that: give it another")


def _promised(name: str, sampler: TeacherSampler) -> str | None:
    """What a sampler's name says of it, where that is not so. A variant of the solver (dpmpp-3m-eps of dpmpp-3m) may go by its name."""
    plain = ONE_NFE.sub("", name)
    solver = SOLVER_OF.get(plain)
    if solver is None:
        return None
    is_guided = plain != "heun-guided" or sampler.guidance != 1
    is_it = sampler.solver == solver or sampler.solver.startswith(f"{solver}-")
    return None if is_it and is_guided else f"solver {solver}" + (" with guidance" if plain == "heun-guided" else "")


def _is_apart(suite: Suite | DecodedSuite, name: str) -> bool:
    """Whether the sampler and the student of a name are each an entry of an ablation, which keeps them apart, and nothing else holds one
    against the other: no claim by that name, no number of evaluations that both have."""
    if not isinstance(suite, Suite) or name in OF_METHODS or name == suite.teacher_samples.reference:
        return False
    report, sampler = suite.report, suite.teacher_samples.samplers[name]
    is_compared = any(name in (of.ours, of.other) for of in report.comparisons.values())
    is_varied = any(name in of.methods for of in report.axes.values()) and any(name in of.samplers for of in report.sampler_axes.values())
    few, asked = suite.few_step.get(name), suite.sampled_at(name)
    steps = {1} if few is None else {n - 1 - few.afs for n in asked.num_steps or []}
    made = {n * (1 if weight == 1 else 2) for n in steps for weight in asked.guidance}
    return is_varied and not is_compared and made.isdisjoint(sampler.nfe(n) for n in sampler.num_steps)
