"""`backtrail text-autoencoder`: the first stage of the latent teacher."""

import pandas as pd

from backtrail import layout
from backtrail.data.dataset import load_dataset
from backtrail.nets.autoencoder import save_autoencoder
from backtrail.parameters.text import AutoencoderTraining
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.autoencoder import autoencoder_state, autoencoder_update, set_scale
from backtrail.teachers.train import run_logged

COLUMNS = ["step", "images", "l1", "kl", "lr"]


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train the autoencoder and measure its scaling factor; writes its weights and the log of its losses."""
    p, dataset = stage.section(AutoencoderTraining, "autoencoder"), load_dataset(layout.DATASET)
    state = autoencoder_state(p, stage.device, stage.group)
    rows = run_logged(state, lambda step: autoencoder_update(state, p, dataset, step), p, stage.scratch)
    if stage.writes:
        net = state.modules["autoencoder"].eval()
        set_scale(net, dataset.train_images[: p.batch])
        save_autoencoder(layout.AUTOENCODER, net, dataset=dataset.digest)
        save_csv(layout.AUTOENCODER_LOG, pd.DataFrame(rows, columns=COLUMNS))
