"""`backtrail text-fetch-teacher`: a published teacher of text to images with its first stage and judges, verified by digest."""

from backtrail import layout
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.text_teacher import text_teacher_source
from backtrail.parameters.text import PublishedTextTeacher, TrainedTextTeacher, either_kind
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring a published teacher's files into data/teacher, each verified; a teacher that is trained here has none."""
    p = stage.section(either_kind("teacher", TrainedTextTeacher, PublishedTextTeacher), "teacher")
    if isinstance(p, PublishedTextTeacher):
        stage.record.notes |= fetch_outside(layout.FETCHED_TEACHER, [text_teacher_source()], p.local, p.sha256)
    else:
        fetch_outside(layout.FETCHED_TEACHER, [])
