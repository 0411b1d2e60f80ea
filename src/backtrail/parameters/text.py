"""Parameters of text to images in a small world: the data set `fashion-text`, its first stage, judges and teacher."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import Digests, Pair, RelativePath, Section, read
from backtrail.parameters.discrete_time import STABLE_DIFFUSION, Asked, Betas, Prediction
from backtrail.parameters.net import TextUNetParameters
from backtrail.parameters.quantities import Batch, Count, Decay, LearningRate, Seed
from backtrail.parameters.training import Adam, Average

Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]  # of a level; group normalisation has eight groups
NullText = Literal["empty", "zeros"]
PosteriorValue = Literal["sample", "mean"]


class TextWorld(Section):
    """The data set, and what its captions are encoded by."""

    local: RelativePath = Field(
        description="folder with files supplied by hand, tried before any address and verified as strictly; "
        "what lies there is a dependency of the stage `text-fetch`"
    )
    seed: Seed = Field(0, description="Seed of colours, grounds, wordings and crops.")
    null_text: NullText = Field(
        "empty", description='Text of the unconditional branch: the encoding of "" (Stable Diffusion) or zeros (SDXL).'
    )


class AutoencoderParameters(Section):
    """The first stage (`nets/autoencoder.py`): four pixels per latent and side."""

    image_channels: int = Field(3, ge=1, le=64, description="Channels of an image.")
    channels: Pair[Channels] = Field((32, 64), description="Channels at half and at a quarter of the resolution; multiples of 8.")
    latent_channels: int = Field(4, ge=1, le=64, description="Channels of the latents.")


class AutoencoderTraining(Section):
    """L1 and a little of the Kullback-Leibler divergence, Adam, a learning rate that falls along a cosine to zero."""

    net: AutoencoderParameters = AutoencoderParameters()
    steps: Count = Field(description="Optimiser updates.")
    batch: Batch = Field(ge=2, description="Images per update; the latents of the first batch of images have standard deviation 1.")
    optimiser: Adam
    kl_weight: float = Field(1e-6, ge=0, le=1e6, description="Weight of the divergence; both terms are summed over an image.")
    posterior: PosteriorValue = Field("sample", description="What images are encoded as: a sample of their posterior, or its mean.")
    seed: Seed = Field(0, description="Seed of weights, batches and noise.")


class TextTeacher(Section):
    """The latent teacher of text to images (`nets/text_unet.py`): the error of the noise, at time steps drawn uniformly."""

    net: TextUNetParameters = TextUNetParameters()
    betas: Betas = Field(STABLE_DIFFUSION, description="Betas of the process.")
    asked: Asked = Asked(time_map="ln-alpha")
    prediction_type: Prediction = Field("epsilon", description="What the network estimates.")
    steps: Count = Field(description="Optimiser updates.")
    batch: Batch = Field(description="Latents per update.")
    optimiser: Adam
    average: Average
    text_dropout: Decay = Field(0.1, description="Share of captions replaced by the null text (classifier-free guidance).")
    seed: Seed = Field(0, description="Seed of weights, batches and noise.")


class TowerTraining(Section):
    """A small net that judges images (`nets/towers.py`): Adam, warm-up over a tenth of the steps, then cosine to zero."""

    width: int = Field(32, ge=4, le=256, description="Channels of the first two convolutions; the third has twice as many.")
    steps: Count = Field(500, description="Training steps.")
    batch: Batch = Field(128, ge=2, description="Images per training step.")
    learning_rate: LearningRate = Field(5e-3, description="Adam's learning rate at its height.")
    seed: Seed = Field(0, description="Seed of the initial weights and of the order of the images.")


class TrainedTextTeacher(TextTeacher):
    """A teacher that is trained here: the stage `text-fetch-teacher` is there too, and has nothing to fetch."""

    local: RelativePath = Field(description="folder in which a published teacher would be looked for; `text-fetch-teacher` depends on it")


class PublishedPart(Section):
    """What another suite has trained: its file lies beside the teacher."""

    source: Literal["own-backtrail"] = Field(description="`own-backtrail`: the file beside the teacher, in teacher.local")


class PublishedAutoencoder(PublishedPart):
    """The first stage that the teacher was trained with."""

    posterior: PosteriorValue = Field("sample", description="What images are encoded as; the teacher's own.")


class PublishedTextTeacher(PublishedPart):
    """The teacher of another suite with its first stage and its judges (`backtrail export --teacher` writes such a folder)."""

    local: RelativePath = Field(description="the folder that holds the files; a dependency of the stage `text-fetch-teacher`")
    sha256: Digests = Field({}, description="digests by file name, which pin them")


class TextEvaluation(Section):
    """What is measured of decoded images."""

    n_samples: Count = Field(ge=2, description="Images of each model at each number of evaluations and weight of guidance.")
    n_curve: Count = Field(ge=2, description="Images at each point of a student's curve.")
    n_reference: Count = Field(ge=2, description="Real images, of every pair and centred, that a Frechet distance compares with.")
    batch_size: Batch = Field(64, description="Images per pass of the judge; part of the protocol.")
    prompts: Literal["apart", "same"] = Field(
        "apart",
        description="Captions of evaluation: the last wording, of all pairs, which students are not trained under; or those of training, "
        "as in SFD's released code.",
    )


def either_kind(key: str, trained: type[Section], published: type[Section], path: str | Path = PARAMS_FILE) -> type[Section]:
    """The model of a section of what is trained here or, where it names a source, comes from elsewhere."""
    value = read(path).get(key)
    return published if isinstance(value, dict) and "source" in value else trained
