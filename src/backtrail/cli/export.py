"""`backtrail export`: the suite for others: an RO-Crate with model cards."""

import shlex

import click

from backtrail.errors import UserError
from backtrail.export.crate import export
from backtrail.export.teacher import export_teacher
from backtrail.export.vocabulary import checks


@click.command()
@click.argument("folder", default="export", type=click.Path(file_okay=False))
@click.option("--sign", "key", default="", help="Sign the ledger's digests: with the file of an ssh key, or gpg:KEY.")
@click.option("--teacher", is_flag=True, help="Only the trained teacher and what it comes with, for other suites to import.")
def command(folder: str, key: str, teacher: bool) -> None:
    """Write FOLDER, a Workflow Run RO-Crate of the suite: results, records, reports, and each student with its model card.

    Data and large intermediate files are described by digest and not carried along.
    """
    if teacher and key:
        raise UserError("--sign is for the export of a whole suite, not for --teacher, whose folder has no seal: leave one of them out")
    if teacher:
        click.echo(f"{folder}: {', '.join(export_teacher(folder))}")
        return
    files = export(folder, key=key)
    click.echo(f"{folder}: {len(files)} files; ro-crate-preview.html shows them in a browser. To check it against its profile:")
    click.echo(f"  {checks(shlex.quote(folder))}")
