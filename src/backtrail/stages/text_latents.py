"""`backtrail text-latents`: the training images as latents."""

from backtrail import layout
from backtrail.artifacts import file_digest
from backtrail.data.dataset import load_dataset
from backtrail.nets.autoencoder import load_autoencoder
from backtrail.parameters.text import AutoencoderTraining, PublishedAutoencoder, TextWorld, either_kind
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.teachers.latents import encode_dataset, save_latents


@torch_stage
def command(stage: TorchStage) -> None:
    """Encode the training images once, with captions and crops; the archive says whether it holds samples of the posterior or means."""
    net, _ = load_autoencoder(layout.AUTOENCODER)
    kind = either_kind("autoencoder", AutoencoderTraining, PublishedAutoencoder)
    dataset, posterior = load_dataset(layout.DATASET), stage.value(kind, "autoencoder.posterior")
    latents = encode_dataset(net.to(stage.device), dataset, posterior, stage.value(TextWorld, "text.seed"))
    save_latents(layout.LATENTS, latents, dataset=dataset.digest, autoencoder=file_digest(layout.AUTOENCODER))
