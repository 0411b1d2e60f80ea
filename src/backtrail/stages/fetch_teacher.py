"""`backtrail fetch-teacher`: the released teacher's files, verified by digest."""

from backtrail import layout
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.sources import source_of_teacher
from backtrail.parameters.teacher import ImportedTeacher, teacher_section
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring an imported teacher's files into data/teacher, each verified; a teacher that is trained here has none."""
    p = teacher_section()
    if isinstance(p, ImportedTeacher):
        stage.record.notes |= fetch_outside(layout.FETCHED_TEACHER, [source_of_teacher(p.source, p.local)], p.local, p.sha256)
    else:
        fetch_outside(layout.FETCHED_TEACHER, [])
