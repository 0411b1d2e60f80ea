"""`backtrail text-autoencoder`: the first stage of the latent teacher."""

from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.data.dataset import Dataset, load_dataset
from backtrail.data.text_teacher import fetched, take_over
from backtrail.errors import UserError
from backtrail.nets.autoencoder import load_autoencoder, save_autoencoder
from backtrail.parameters.text import AutoencoderTraining, PublishedAutoencoder, either_kind
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.autoencoder import autoencoder_state, autoencoder_update, set_scale
from backtrail.teachers.train import run_logged

COLUMNS = ["step", "images", "l1", "kl", "lr"]


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train the autoencoder and measure its scaling factor, or take over a published one; writes its weights and the log of its losses."""
    p = stage.section(either_kind("autoencoder", AutoencoderTraining, PublishedAutoencoder), "autoencoder")
    dataset = load_dataset(layout.DATASET)
    if isinstance(p, AutoencoderTraining):
        rows = train(p, dataset, stage)
    else:
        check_published(dataset)
        rows = []
        if stage.writes:
            take_over(layout.AUTOENCODER)
    if stage.writes:
        save_csv(layout.AUTOENCODER_LOG, pd.DataFrame(rows, columns=COLUMNS))


def train(p: AutoencoderTraining, dataset: Dataset, stage: TorchStage) -> list[dict[str, Any]]:
    """Train the autoencoder and write it; returns the log."""
    state = autoencoder_state(p, stage.device, stage.group)
    rows = run_logged(state, lambda step: autoencoder_update(state, p, dataset, step), p, stage.scratch)
    if stage.writes:
        net = state.modules["autoencoder"].eval()
        set_scale(net, dataset.train_images[: p.batch])
        save_autoencoder(layout.AUTOENCODER, net, dataset=dataset.digest)
    return rows


def check_published(dataset: Dataset) -> None:
    """Raises UserError unless the fetched autoencoder was trained on this data set."""
    file = fetched(layout.AUTOENCODER)
    if load_autoencoder(file)[1].get("dataset") != dataset.digest:
        raise UserError(f"{file} was trained on other images than this suite's (text.seed): train one here (`steps` and no `source`)")
