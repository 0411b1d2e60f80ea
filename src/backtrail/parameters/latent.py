"""Parameters of published latent teachers: their files, the texts that they are told, the real images, and what is measured."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from backtrail.parameters.base import Digests, Line, RelativePath, Section
from backtrail.parameters.discrete_time import Asked
from backtrail.parameters.quantities import Batch, Count, Whole

LatentSource = Literal["teacher-sd15", "teacher-sdxl", "teacher-ldm-lsun-bedroom"]
# A plain name, which lies in the folder of files got by hand or is fetched.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
Pixels = Annotated[int, Field(ge=0, le=65_536)]
TimeIds = Annotated[
    tuple[Pixels, Pixels, Pixels, Pixels, Pixels, Pixels], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]


class LatentTeacher(Section):
    """A published pipeline of latents in the layout of diffusers, and how it is asked."""

    source: LatentSource = Field(description="Entry of the registry of latent teachers (`data/latent_sources.py`).")
    local: RelativePath = Field(
        description="Folder with files supplied by hand (the pipeline's own folders, or plain files), tried before any address, verified "
        "as strictly; what lies there is a dependency of the stage `latent-fetch`."
    )
    single_file: FileName | None = Field(
        None,
        description="Name of one file that holds all weights in the original code's layout, in place of the pipeline's: safetensors, or a "
        ".ckpt of tensors alone, in the precision that it has (SDXL's is half). Of a file with raw weights and their average it is the "
        "average. What describes them is the pipeline's.",
    )
    sha256: Digests = Field({}, description="Digests of files whose digest the registry does not know, by their name there.")
    accept_licence: Line | None = Field(
        None, description="The name of the weights' licence, written by whoever accepts it: nothing is downloaded without."
    )
    asked: Asked = Field(Asked(time_map="ln-alpha"), description="How it is asked between its time steps.")
    first_stage_scale: float | None = Field(
        None,
        ge=1e-3,
        le=1e3,
        description="What latents are multiplied by; null is what the first stage's file says, which a VQModel's does not.",
    )
    decode_batch: Batch = Field(8, description="Latents that the first stage decodes at a time.")

    @model_validator(mode="after")
    def _convertible(self) -> Self:
        if self.single_file is not None and self.source == "teacher-ldm-lsun-bedroom":
            raise ValueError("single_file is read for teachers of texts alone: diffusers converts no other by itself")
        return self


class Processes(Section):
    """How the processes of a training, one for each GPU, share its networks; each has a part of every batch."""

    sharded: bool = Field(
        description="Whether each keeps a part of the networks that are trained whole (`fully_shard`), which then fit where they would not "
        "(with runtime.checkpointing); it costs time, and the batch has to be a multiple of the processes. Adapters share one network."
    )


class Captions(Section):
    """A list of captions: a text file with one a line, or COCO's own annotations (`captions_*.json`)."""

    file: FileName = Field(description="Name of the file.")
    count: Count | None = Field(None, description="The first so many; null: all. In training each distinct caption counts once.")


class Prompts(Section):
    """What a teacher of text is told."""

    training: Captions = Field(description="Captions that students are trained under.")
    evaluation: Captions = Field(
        description="Captions of the measured images: image i has the i-th, and from the first again after the last."
    )
    kept: Literal["apart", "same"] = Field(
        "apart",
        description="apart: no caption of evaluation is trained under. same: under them, as in SFD's code.",
    )
    null_text: Literal["empty", "zeros"] = Field(
        "empty", description='Text of the unconditional branch: the encoding of "" (Stable Diffusion) or zeros (SDXL).'
    )
    time_ids: TimeIds | None = Field(
        None, description="Micro-conditioning: original height and width, top and left of the crop, target height and width, in pixels."
    )
    of_images: FileName | None = Field(
        None, description="COCO's annotations of the real images, whose captions their latents are told; null: the null text."
    )
    batch: Batch = Field(64, description="Captions that are encoded at a time.")


class RealImages(Section):
    """Real images: what is compared with, the first stage's floor, and the data on which a path's loss is measured."""

    file: FileName = Field(description="Name of a zip of images, which may have any shape.")
    resolution: int = Field(ge=8, le=4096, multiple_of=8, description="Side of the images that the first stage decodes, pixels.")
    n_reference: Count | None = Field(
        None, ge=2, description="Images behind the reference, the first by name; null: all. Part of the protocol: it moves an FID by 1."
    )
    n_floor: Count = Field(ge=2, description="Of these, how many are encoded and decoded: the floor of the table.")
    n_latents: Whole = Field(0, description="Images whose latents a recording measures its path's loss on; 0 where nothing is recorded.")
    posterior: Literal["sample", "mean"] = Field(
        "sample", description="What they are encoded as; of a VQModel the only thing that there is."
    )


class FrechetProtocol(Section):
    """A Frechet distance in Inception's features, by what happens to images before: the name of its values says all of it."""

    images: Literal["whole", "crop-256", "crop-512", "patch"] = Field(
        "whole",
        description="whole: as they are, real ones a centred square scaled to data.resolution. crop-256, crop-512: a centred "
        "square, Lanczos to that side (DMD2). patch: the middle 299x299 at native size (patch FID).",
    )
    resize: Literal["tensorflow", "clean"] = Field("tensorflow", description="To 299x299: as TensorFlow 1 does, or as clean-fid does.")
    n_images: Count = Field(ge=2, description="Images of each model.")

    @property
    def name(self) -> str:
        """fid_30k, fid_5k, fid_30k_crop_256_clean, patch_fid_10k_clean."""
        count = f"{self.n_images // 1000}k" if self.n_images % 1000 == 0 else str(self.n_images)
        of_patches, cropped = self.images == "patch", self.images.startswith("crop")
        parts = ["patch_fid" if of_patches else "fid", count, *([self.images.replace("-", "_")] if cropped else [])]
        return "_".join([*parts, *(["clean"] if self.resize == "clean" else [])])

    @property
    def extractor(self) -> Literal["inception", "inception-clean"]:
        return "inception" if self.resize == "tensorflow" else "inception-clean"


class ClipScore(Section):
    """Cosine of image and caption by a model of open_clip. Conventions differ in model, prefix and factor: its name says all three."""

    model: Line = Field(description="open_clip's name of the architecture, such as ViT-g-14.")
    trained_on: Line = Field(description="open_clip's name of the training, such as laion2b_s34b_b88k; a part of the value's name.")
    weights: FileName = Field(description="Name of the file of weights, safetensors.")
    prefix: Literal["", "A photo depicts"] = Field("", description="What stands before each caption.")
    factor: float = Field(ge=1, le=100, description="What the mean cosine is multiplied by: 1 and 100 are usual.")
    images: Literal["whole", "crop-256", "crop-512"] = Field("whole", description="As for a Frechet distance.")
    clamped: bool = Field(False, description="A negative mean becomes 0, as in torchmetrics.")
    n_images: Count = Field(description="Images of each model.")

    @property
    def name(self) -> str:
        """clip_score_vit_g_14_laion2b_s34b_b88k_caption_x100."""
        words = f"{self.model}_{self.trained_on}_{self.prefix or 'caption'}_x{self.factor:g}".lower()
        cropped = [] if self.images == "whole" else [self.images.replace("-", "_")]
        plain = "".join(letter if letter.isalnum() else "_" for letter in words)
        return "_".join(["clip_score", plain, *cropped, *(["clamped"] if self.clamped else [])])


class LatentEvaluation(Section):
    """What is measured of decoded images."""

    frechet: Annotated[list[FrechetProtocol], Field(min_length=1, max_length=20)] = Field(
        description="Protocols of Frechet distances; the first is that of the curves."
    )
    clip: Annotated[list[ClipScore], Field(max_length=20)] = Field([], description="CLIP scores; they need captions.")
    n_curve: Count = Field(ge=2, description="Images at each point of a student's curve: its distances are no FID of any table.")
    batch_size: Batch = Field(64, description="Images per call of an extractor; part of the protocol.")

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ValueError(f"two protocols would have the name {twice[0]}: leave one out")
        return self

    @property
    def names(self) -> list[str]:
        """Names of the values, a column of the table each."""
        return [p.name for p in (*self.frechet, *self.clip)]

    @property
    def n_images(self) -> int:
        """Images that are drawn of each model: as many as the largest count of a protocol."""
        return max(p.n_images for p in (*self.frechet, *self.clip))
