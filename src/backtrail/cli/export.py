"""`backtrail export`: the suite for others: an RO-Crate with model cards."""

import click

from backtrail.export.crate import export


@click.command()
@click.argument("folder", default="export", type=click.Path(file_okay=False))
@click.option("--sign", "key", default="", help="Sign the ledger's digests: with the file of an ssh key, or gpg:KEY.")
def command(folder: str, key: str) -> None:
    """Write FOLDER, a Workflow Run RO-Crate of the suite: results, records, reports, and each student with its model card.

    Data and large intermediate files are described by digest and not carried along.
    """
    files = export(folder, key=key)
    click.echo(f"{folder}: {len(files)} files; ro-crate-preview.html shows them in a browser. To check it against its profile:")
    click.echo("  rocrate-validator cache warm    # once, where there is a network: the vocabulary of RO-Crate")
    click.echo(f"  rocrate-validator -y validate --offline -p provenance-run-crate {folder}")
