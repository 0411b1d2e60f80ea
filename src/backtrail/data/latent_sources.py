"""The registry of published latent teachers and of what they are measured with, as `sources` is that of images.

Sizes and digests of weights are those of the model repositories' own pointers; a file without a digest is trusted on first use.
"""

from collections.abc import Mapping
from dataclasses import replace

from backtrail.data.registry import File, Source
from backtrail.parameters.latent import LatentSource

_HUB = "https://huggingface.co/{}/resolve/main/{}"
_VOCABULARY = {  # of CLIP, the same in all models
    "vocab.json": ("e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349", 1_059_962),
    "merges.txt": ("9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a", 524_619),
}
_UNET, _VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
_SD15 = {
    _UNET: ("19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1", 3_438_167_540),
    _VAE: ("a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c", 334_643_276),
    "text_encoder/model.safetensors": ("d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334", 492_265_874),
}
_SDXL = {
    _UNET: ("357650fbfb3c7b4d94c1f5fd7664da819ad1ff5a839430484b4ec422d03f710a", 10_270_077_736),
    _VAE: ("1598f3d24932bcfe6634e8b618ea1e30ab1d57f5aad13a6d2de446d2199f2341", 334_643_268),
    "text_encoder/model.safetensors": ("5c3d6454dd2d23414b56aa1b5858a72487a656937847b6fea8d0606d7a42cdbc", 492_265_168),
    "text_encoder_2/model.safetensors": ("3a6032f63d37ae02bbc74ccd6a27440578cd71701f96532229d0154f55a8d3ff", 2_778_702_264),
}
_OF_TOKENIZERS = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def _pipeline(name: str, repository: str, purpose: str, licence: str, date: str, weights: Mapping[str, tuple[str, int]]) -> Source:
    """A pipeline as diffusers keeps it: weights by digest; descriptions are held against them when they are read."""
    known, parts = dict(weights), [file.split("/")[0] for file in weights]
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in parts if part.startswith("text_encoder")]
    known |= {f"{tokenizer}/{file}": of for tokenizer in tokenizers for file, of in _VOCABULARY.items()}
    described = ["model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts)]
    names = [*described, *weights, *(f"{tokenizer}/{file}" for tokenizer in tokenizers for file in _OF_TOKENIZERS)]
    files = []
    for file in names:
        digest, size_bytes = known.get(file, (None, None))
        address = _HUB.format(repository, file)
        files.append(File(name=file, addresses=(address,), sha256=digest, size_bytes=size_bytes, served_bytes=size_bytes))
    homepage = f"https://huggingface.co/{repository}"
    return Source(
        name=name, purpose=purpose, files=tuple(files), licence=licence, date=date, homepage=homepage, token_variable="HF_TOKEN"
    )  # fmt: skip


LATENT_TEACHERS: dict[LatentSource, Source] = {
    "teacher-sd15": _pipeline(
        "teacher-sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "teacher: Stable Diffusion 1.5, text to images of 512x512",
        "CreativeML OpenRAIL-M",
        "2022-10",
        _SD15,
    ),
    "teacher-sdxl": _pipeline(
        "teacher-sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "teacher: SDXL base 1.0, text to images of 1024x1024",
        "OpenRAIL++-M",
        "2023-07",
        _SDXL,
    ),
    # Latent diffusion published a checkpoint (lsun_bedrooms.zip, vq-f4.zip) and no folder of diffusers.
    "teacher-ldm-lsun-bedroom": Source(
        name="teacher-ldm-lsun-bedroom",
        purpose="teacher: latent diffusion on LSUN-Bedroom, 256x256, with its first stage VQ-f4",
        licence="not stated for the weights (the code is MIT)",
        date="2021-12",
        homepage="https://github.com/CompVis/latent-diffusion",
        files=tuple(
            File(name=name)
            for name in (
                "model_index.json",
                "scheduler/scheduler_config.json",
                "unet/config.json",
                _UNET,
                "vqvae/config.json",
                "vqvae/diffusion_pytorch_model.safetensors",
            )
        ),
        by_hand="get lsun_bedrooms.zip (model.ckpt, with its EMA weights) from the homepage and convert it by diffusers' "
        "convert_ldm_original_checkpoint_to_diffusers.py; the folders that it writes are the files",
    ),
}
COCO = "https://cocodataset.org"


def _single_file(repository: str, name: str, licence: str, date: str, sha256: str, size_bytes: int) -> Source:
    """A pipeline's weights in one file, as the original codes keep them."""
    file = File(
        name=name, addresses=(_HUB.format(repository, name),), sha256=sha256, size_bytes=size_bytes, served_bytes=size_bytes
    )  # fmt: skip
    homepage = f"https://huggingface.co/{repository}"
    return Source(
        name=name, purpose="a teacher's weights in one file", files=(file,), licence=licence, date=date, homepage=homepage,
        token_variable="HF_TOKEN",
    )  # fmt: skip


# What else may be fetched, by the file's name; every other file that a suite names is to be got by hand.
LATENT_FILES: dict[str, Source] = {
    source.files[0].name: source
    for source in (
        Source(
            name="captions-coco14-30k",
            purpose="30,000 captions of COCO 2014's validation images, one a line, as DMD2 measures under",
            licence="CC BY 4.0 (COCO's annotations)",
            date="2024-05",
            homepage="https://github.com/tianweiy/DMD2",
            files=(
                File(
                    name="captions_coco14_test.txt",
                    addresses=(
                        "https://raw.githubusercontent.com/tianweiy/DMD2/4e54501cbe96b31f8a90f15aae3d4e6658b6001c/main/coco_eval/captions_coco14_test.txt",
                    ),
                    sha256="edabd2a556026cbf5d36a5fffa35ad43d7ba71b72f6d640b727c1edefb7f1945",
                ),
            ),
        ),
        Source(
            name="coco-val2014",
            purpose="COCO 2014's validation images: 40,504 photographs of many shapes",
            licence="the photographs' own (Flickr terms of use)",
            date="2014",
            homepage=COCO,
            files=(File(name="val2014.zip", addresses=("http://images.cocodataset.org/zips/val2014.zip",)),),
        ),
        _single_file(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "v1-5-pruned-emaonly.safetensors",
            "CreativeML OpenRAIL-M",
            "2022-10",
            "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
            4_265_146_304,
        ),
        _single_file(
            "stabilityai/stable-diffusion-xl-base-1.0",
            "sd_xl_base_1.0.safetensors",
            "OpenRAIL++-M",
            "2023-07",
            "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
            6_938_078_334,
        ),
    )
}


def teacher_source(source: LatentSource, single_file: str | None) -> Source:
    """A teacher's files; where its weights come in one file, those that describe them."""
    teacher = LATENT_TEACHERS[source]
    if single_file is None:
        return teacher
    return replace(teacher, files=tuple(file for file in teacher.files if file.name not in weight_files(source)))


def weight_files(source: LatentSource) -> list[str]:
    """The names of a teacher's weights, as its pipeline has them."""
    return [file.name for file in LATENT_TEACHERS[source].files if file.name.endswith(".safetensors")]


def file_source(name: str) -> Source:
    """Where a file that a suite of a latent teacher names comes from: an entry above, or by hand."""
    return LATENT_FILES.get(name) or Source(
        name=name,
        purpose="a file that params.yaml names",
        files=(File(name=name),),
        licence="yours to know",
        date="unknown",
        homepage="your own files",
        by_hand="get it by hand",
    )
