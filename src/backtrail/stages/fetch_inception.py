"""`backtrail fetch-inception`: the files that FID needs, verified by digest."""

from backtrail import layout
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.sources import SOURCES
from backtrail.parameters.metrics import Metrics, needs_inception
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring Inception's weights and the published reference statistics into data/inception; nothing where FID is not measured."""
    p, extractors = stage.value(Metrics, "metrics.inception"), stage.value(Metrics, "metrics.extractors")
    if not needs_inception(extractors):
        fetch_outside(layout.INCEPTION, [])
        return
    names = ["inception-2015-12-05", *p.published.values()]
    stage.record.notes |= fetch_outside(layout.INCEPTION, [SOURCES[name] for name in names], p.local, p.sha256)
