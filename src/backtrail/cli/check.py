"""`backtrail check`: params.yaml as a whole, and the files of your own that it names."""

import click

from backtrail.cli.own_files import check_own_files, check_text_teacher
from backtrail.ledger.fingerprints import PACKAGE_FOLDER
from backtrail.ledger.repository import nameless
from backtrail.parameters.suite import Suite, read_suite
from backtrail.parameters.text_suite import PublishedTextSuite


@click.command()
def command() -> None:
    """Check params.yaml, and your own images and teacher where it names some; nothing is run.

    Unknown keys, wrong types and impossible values are named, as is what the images or the teacher do not allow. How your images are read
    (size, classes, splits, what is left out) is printed.
    """
    suite = read_suite()
    understood = check_own_files(suite) if isinstance(suite, Suite) else []
    if isinstance(suite, PublishedTextSuite):
        check_text_teacher(suite)
    if said := nameless(PACKAGE_FOLDER):
        click.echo(f"note: {said}", err=True)
    for line in understood:
        click.echo(line)
    click.echo(f"params.yaml is valid: suite {suite.suite}, methods {', '.join(suite.methods)}, seeds {', '.join(map(str, suite.seeds))}")
