"""The published EDM teachers of both papers' experiments: what the files hold, as constants that an import can be held against.

The names are the files' (without `.pkl`); `vp` in them names the DDPM++ architecture, the preconditioning is EDM's in all.
"""

from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration


def _ddpmpp(resolution: int, multipliers: tuple[int, ...], dropout: float, n_classes: int = 0) -> EDMTeacher:
    """DDPM++ with non-leaking augmentation (nine augmentation labels)."""
    net = SongUNetConfiguration(
        img_resolution=resolution,
        in_channels=3,
        out_channels=3,
        label_dim=n_classes,
        augment_dim=9,
        channel_mult=multipliers,
        dropout=dropout,
    )
    return EDMTeacher(preconditioning=EDM(), net=net)


PUBLISHED: dict[str, EDMTeacher] = {
    "edm-cifar10-32x32-uncond-vp": _ddpmpp(32, (2, 2, 2), 0.13),
    "edm-cifar10-32x32-cond-vp": _ddpmpp(32, (2, 2, 2), 0.13, n_classes=10),
    "edm-ffhq-64x64-uncond-vp": _ddpmpp(64, (1, 2, 2, 2), 0.05),
    "edm-afhqv2-64x64-uncond-vp": _ddpmpp(64, (1, 2, 2, 2), 0.25),
    "edm-imagenet-64x64-cond-adm": EDMTeacher(
        preconditioning=EDM(),
        net=DhariwalConfiguration(img_resolution=64, in_channels=3, out_channels=3, label_dim=1000),
    ),
}
