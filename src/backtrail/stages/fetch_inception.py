"""`backtrail fetch-inception`: the files that FID needs, verified by digest."""

import click

from backtrail.data.outside import fetch_outside
from backtrail.data.sources import SOURCES
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.stage import stage


@click.command()
def command() -> None:
    """Bring Inception's weights and the published reference statistics into data/inception; nothing where FID is not measured."""
    p = section(Metrics, "metrics").inception
    with stage("fetch-inception", __name__, {"inception": p}, [], ["data/inception"]) as record:
        if p is None:
            fetch_outside("data/inception", [])
            return
        names = ["inception-2015-12-05", *([p.reference] if p.reference else [])]
        record.notes |= fetch_outside("data/inception", [SOURCES[name] for name in names], p.local, p.sha256)
