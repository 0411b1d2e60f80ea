"""`backtrail code`: one digest for each command of all the code that it stands on."""

import logging

import click
import yaml

from backtrail.artifacts import atomic_write
from backtrail.layout import CODE_FILE
from backtrail.ledger.fingerprints import PACKAGE_FOLDER, command_digest, commands
from backtrail.ledger.repository import nameless
from backtrail.running.stage import check_suite

HEAD = "# Written by the stage `code`: a digest of the code of each command, without comments. Every stage depends on its own.\n"


@click.command("code")
def command() -> None:
    """Write code.yaml, by which DVC sees whose code has changed. A params.yaml with an error in it is refused here already."""
    check_suite()
    if said := nameless(PACKAGE_FOLDER):
        logging.getLogger(__name__).warning("%s", said)
    digests = {name: command_digest(name) for name in commands() if name != "code"}
    atomic_write(CODE_FILE, lambda file: file.write_text(HEAD + yaml.safe_dump(digests), encoding="utf-8"))
