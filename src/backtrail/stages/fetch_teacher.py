"""`backtrail fetch-teacher`: the released teacher's files, verified by digest."""

import click

from backtrail.data.outside import fetch_outside
from backtrail.data.sources import source_of_teacher
from backtrail.parameters.teacher import ImportedTeacher, teacher_section
from backtrail.running.stage import stage


@click.command()
def command() -> None:
    """Bring an imported teacher's files into data/teacher, each verified; a teacher that is trained here has none."""
    p = teacher_section()
    with stage("fetch-teacher", __name__, {"teacher": p}, [], ["data/teacher"]) as record:
        if isinstance(p, ImportedTeacher):
            record.notes |= fetch_outside("data/teacher", [source_of_teacher(p.source)], p.local, p.sha256)
        else:
            fetch_outside("data/teacher", [])
