"""`backtrail latent-captions`: captions as the published teacher's own text encoders see them."""

from pathlib import Path

from backtrail import layout
from backtrail.data.caption_files import captions_of_images, training_and_evaluation
from backtrail.data.fetched_folder import fetched_files
from backtrail.data.real_images import RealImageFile
from backtrail.parameters.latent import Prompts, RealImages
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.teachers.latent_texts import encode_texts, save_texts
from backtrail.teachers.text_encoders import Encoder, TextEncoder, import_text
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Encode each distinct caption of training, of evaluation and of the real images once, and the null text; one archive."""
    if stage.parameters["prompts"] is None:
        save_texts(layout.CAPTIONS, None, None)
        return
    p, n_real = stage.section(Prompts, "prompts"), stage.value(RealImages, "data.n_latents")
    raw = Path(layout.RAW)
    training, evaluation = training_and_evaluation(raw, p)
    real = None
    if p.of_images is not None and n_real:
        images = RealImageFile(raw / stage.value(RealImages, "data.file"))
        real = captions_of_images(raw / p.of_images, [images.name(i) for i in range(min(n_real, len(images)))])
    encoder = import_text(layout.FETCHED_TEACHER)
    placed = TextEncoder(tuple(Encoder(one.tokenizer, one.model.to(stage.device)) for one in encoder.encoders))
    with progress(len({*training, *evaluation, *(real or [])}), unit="caption") as tick:
        encoded = encode_texts(training, evaluation, real, placed, p, tick)
    digests = {name: digest for name, digest in fetched_files(layout.FETCHED_TEACHER).items() if name.startswith("text_encoder")}
    save_texts(layout.CAPTIONS, encoded, p, encoders=digests)
    stage.record.notes |= {"captions": len(encoded["texts"]), "training": len(training), "evaluation": len(evaluation), "kept": p.kept}
