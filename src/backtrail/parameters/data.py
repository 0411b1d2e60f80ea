"""Parameters of the data set: which one, at what size, and what is supplied by hand."""

from typing import Literal

from pydantic import Field

from backtrail.parameters.base import Digests, RelativePath, Section

DataSet = Literal[
    "fashion-mnist", "cifar10", "cifar10-jpeg", "ffhq64", "afhqv2-64", "imagenet64", "image-folder", "image-zip"
]  # fmt: skip


class Data(Section):
    """The data set that the teacher is trained on and that the metrics compare with."""

    name: DataSet = Field(description="data set; `image-folder` and `image-zip` are your own images, named by `local`")
    resolution: int = Field(ge=4, le=1024, description="height and width of the images after mean pooling, pixels; divides the native size")
    local: RelativePath = Field(
        description="folder (or the one file) with files supplied by hand, tried before any address and verified as strictly; "
        "what lies there is a dependency of the stage `fetch`"
    )
    held_out: int = Field(
        default=0, ge=0, le=10**9, description="images put aside as test images where the data set has no test split of its own, count"
    )
    sha256: Digests = Field(
        default_factory=dict,
        description="digests of files whose digest the registry does not know, by file name; copy them from the first fetch to pin it",
    )
