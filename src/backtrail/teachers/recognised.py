"""Genuine files of other projects, by name: what they are, and what to use instead."""

from collections.abc import Iterable

from backtrail.teachers.reader import Refused

READ = "EDM's pickle, a suite's teacher.safetensors or the folder of a diffusers pipeline"
INSTEAD = "name one of the published EDM teachers, or your own in EDM's or in diffusers' format"
# By the module that a pickle names its classes by.
MODULES = {
    "models.networks_edm": "it is a student network of SFD's training code, which keeps no code and no teacher with it; students are "
    f"distilled here and not imported: {INSTEAD}",
    "models.ldm": "it is a latent diffusion model (in SFD's or its authors' code), expected a network of pixels: " + INSTEAD,
}
# Classes of EDM2's code (arXiv 2312.02696), by the names that its checkpoints keep as text.
EDM2 = {"Precond", "StabilityVAEEncoder", "StandardRGBEncoder", "EDM2Loss", "MPConv"}
EDM2_SENTENCE = f"it is a checkpoint of EDM2 (arXiv 2312.02696), whose magnitude-preserving networks are not built here: {INSTEAD}"

TORCH_SAVE = f"which holds weights and not the network that they are of: name {READ}, as `save_pretrained` writes it"


class Recognised(Refused):
    """The file is genuine, and of another kind; the message is a clause that begins with "it" and ends in what to do."""


def of_name(module: str, name: str) -> Refused:
    """The refusal of a name that is outside the table of known ones."""
    for known, sentence in MODULES.items():
        if module == known or module.startswith(f"{known}."):
            return Recognised(f"{sentence} (it names {f'{module}.{name}'[:100]!r})")
    return Refused(f"it names {f'{module}.{name}'[:100]!r}, which is not part of a checkpoint")


def of_texts(values: Iterable[object]) -> Refused | None:
    """What a file is by the texts among the values that were read of it, or None."""
    return Recognised(EDM2_SENTENCE) if any(type(value) is str and value in EDM2 for value in values) else None
