"""`backtrail text-floor`: what the first stage alone costs in quality, the floor of every table."""

import torch

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.caption_archive import load_captions
from backtrail.data.fashion_text import fashion_text
from backtrail.metrics.alignment import load_judges
from backtrail.nets.autoencoder import load_autoencoder
from backtrail.parameters.text import TextEvaluation, TextWorld
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.stages.text_judges import gathered
from backtrail.teachers.autoencoder import decode, encode


@torch_stage
def command(stage: TorchStage) -> None:
    """Encode and decode real test images, by the mean of their posterior, and measure the reconstructions as samples are measured."""
    e, judges = stage.section(TextEvaluation, "evaluation"), load_judges(load_captions(layout.CAPTIONS))
    net, _ = load_autoencoder(layout.AUTOENCODER)
    images, captions = gathered(fashion_text(layout.RAW, stage.value(TextWorld, "text.seed"), centred=True).test, e.n_samples)
    decoded = decode(net.to(stage.device), encode(net, images, "mean", "test"))
    error = (decoded.float() - images.float()) / 255
    plain = {"l1": error.abs().mean().item(), "psnr_db": -10 * torch.log10(error.square().mean()).item()}
    values = {"reconstructions": judges(decoded, captions, e.batch_size) | plain}
    save_json(layout.reference_values("autoencoder"), {"values": values, "protocol": judges.protocol(len(images), e.batch_size)})
