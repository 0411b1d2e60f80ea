"""`backtrail latent-figures`: the figures of a published latent teacher and its students."""

from backtrail.report.latent_figures import render_latent_figures
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Draw images with their captions, and each metric over evaluations and guidance; each with its data as CSV."""
    render_latent_figures()
